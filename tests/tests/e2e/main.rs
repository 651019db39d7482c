//! SharkLock from outside: real processes, the public client, raw bytes. One binary, so that it is
//! linked once.

mod bad_input;
mod bench;
mod dev_cluster;
mod durability;
mod faults;
mod gateways;
mod health;
mod hostile;
mod lock_command;
mod locks;
mod restart;
mod workspace;
