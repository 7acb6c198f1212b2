"""The numbers that the plugin, an agent and the webhook show to Prometheus."""
