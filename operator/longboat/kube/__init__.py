"""The ports to Kubernetes and KubeVirt: ``port`` says what the operator asks for, ``client`` asks the API server.

Objects that are not ours travel as the dictionaries that the API server sends; ``kinds`` names what is used of them.
Nothing outside this package imports the Kubernetes client.
"""
