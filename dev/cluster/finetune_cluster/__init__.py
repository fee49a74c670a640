"""A real Kubernetes cluster on one machine, for development and end-to-end tests.

With a Docker engine the cluster is kind's. Without one it is two nodes made of Linux namespaces, each with its own
kubelet and containerd, set up by kubeadm. Both end in the same kubeconfig. Only the standard library is used, so
that any Python 3.11 starts it.
"""
