"""Observability: events, log, activity, audit log, metrics, health checks, notifications to systemd."""
