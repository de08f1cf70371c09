"""Pure decisions: no kopf, no Kubernetes client, no I/O, no clock. What is known comes in, what to do comes out."""
