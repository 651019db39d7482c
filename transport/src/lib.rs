//! Connections between the processes of a cluster: who dials whom, one ordered stream per class,
//! bounded queues in front of them, and what is done when they break.
//!
//! It carries messages and understands none: Raft belongs to `multiraft`, calls of gateways to
//! `dataserver` and `gateway`, the cluster's state to `master`.
