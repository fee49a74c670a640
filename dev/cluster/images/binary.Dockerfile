# One static program and nothing else: control plane, etcd, CoreDNS and pause. The builder fills in the name.
FROM scratch
COPY {tool} /usr/local/bin/{tool}
ENTRYPOINT ["/usr/local/bin/{tool}"]
