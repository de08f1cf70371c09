// Command manifest prints what installs virt-operator, as KubeVirt's own packages generate it:
// the KubeVirt CRD, the priority class, roles, and the Deployment.
package main

import (
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/rbac"
	"kubevirt.io/kubevirt/tools/util"
)

const (
	namespace = "kubevirt"
	verbosity = "2"
)

func objects(imagePrefix, version string) ([]any, error) {
	crd, err := components.NewKubeVirtCrd()
	if err != nil {
		return nil, err
	}
	all := []any{crd, components.NewKubeVirtPriorityClassCR()}
	for _, object := range rbac.GetAllOperator(namespace) {
		all = append(all, object)
	}
	deployment := components.NewOperatorDeployment(namespace, imagePrefix, "", version, verbosity, version,
		"", "", "", "", "", "", "", "", "", "", "", "", corev1.PullIfNotPresent)
	single := int32(1)
	deployment.Spec.Replicas = &single
	return append(all, deployment), nil
}

func run(imagePrefix, version string) error {
	all, err := objects(imagePrefix, version)
	if err != nil {
		return err
	}
	for _, object := range all {
		if err := util.MarshallObject(object, os.Stdout); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: manifest <image prefix> <version>")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "manifest:", err)
		os.Exit(1)
	}
}
