"""Real servers on loopback for tests and benchmarks: kube-apiserver with etcd, and SeaweedFS as the S3 server.

No cluster, no container, no root. Each server takes free ports and its own folder, and ends with the process that
started it.
"""
