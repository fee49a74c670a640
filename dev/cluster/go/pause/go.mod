module finetune-operator/dev/cluster/go/pause

go 1.24.0
