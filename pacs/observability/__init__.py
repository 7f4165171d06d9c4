"""What the archive reports about itself: events, log, audit, metrics, health, systemd notification."""
