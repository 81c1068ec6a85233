{"schema": 1, "key": "dc46588445182220", "signature": "WC2RT8uPdQHHP2f0Q0Lz+jkZvBu+Y4HEX4iE4giZRbNBeDH9sPf3Zjk5WcACGLPYyquocMT3QNxdBnJPOAhuDA=="}
