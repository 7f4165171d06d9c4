"""What happened, counted: by one subscriber to the event stream, over all workers, shown in Prometheus' text format."""
