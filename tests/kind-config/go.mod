// kind's parser is internal to it: Go lets a package below sigs.k8s.io/kind/pkg import it, whatever module it is in.
module sigs.k8s.io/kind/pkg/longboat-kind-config

go 1.24

require sigs.k8s.io/kind v0.33.0

require (
	github.com/pkg/errors v0.9.1 // indirect
	go.yaml.in/yaml/v3 v3.0.4 // indirect
)
