"""ECG over MQTT: topics, payloads and the block that they become."""
