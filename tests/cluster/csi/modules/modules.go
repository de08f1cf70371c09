// Package modules keeps in go.mod the modules of which only the protocol files are used.
package modules

import (
	_ "github.com/container-storage-interface/spec/lib/go/csi"
	_ "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)
