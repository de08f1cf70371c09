"""A CSI driver for tests: volumes on XFS with reflink, snapshots in an instant, faults on demand. See README.md."""

DRIVER_NAME = "reflink.csi.longboat.dev"
VERSION = "0.1.0"
