//! The parts of a node as they run in one process: a master, data servers, real disks, real threads,
//! sockets on loopback. What they promise together over processes is the end-to-end tests' business.

mod cluster;
mod data_server;
mod failing_disk;
mod parts;
