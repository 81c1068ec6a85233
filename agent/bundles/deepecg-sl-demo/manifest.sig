{"schema": 1, "key": "b911880f04ea069b", "signature": "9CTrkqPYnwJPeDakM84SEHJCWjOYYVsU1Q2Dyp0kq+pnfjyI7/aj5q5Yw5qjhum0Jc4q3NDbKbBdcpLKQTRWBQ=="}
