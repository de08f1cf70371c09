"""The local test cluster: a real Kubernetes with real parts on one plain machine, without Docker."""
