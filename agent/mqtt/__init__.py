"""The MQTT client: connections, queues and acknowledgements, and nothing of ECG."""
