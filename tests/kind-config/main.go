// Command kind-config reads a configuration as `kind create cluster --config` does, and says what is wrong with it.
package main

import (
	"fmt"
	"os"

	"sigs.k8s.io/kind/pkg/internal/apis/config/encoding"
)

func main() {
	if err := check(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(path string) error {
	config, err := encoding.Load(path)
	if err != nil {
		return err
	}
	if err := config.Validate(); err != nil {
		return err
	}
	fmt.Printf("%s: %d nodes\n", config.Name, len(config.Nodes))
	return nil
}
