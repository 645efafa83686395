"""What monitoring sees of a server: Prometheus metrics, and a trace of each run for OpenTelemetry."""
