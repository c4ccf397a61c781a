"""The receiver of webhooks: who sent it is proven, the event is durable, and only then is it confirmed."""
