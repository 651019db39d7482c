//! The parts of a node as they run in one process: a master, data servers, real disks, real
//! threads, sockets on loopback. Their promises over several processes are the end-to-end tests'
//! business.

mod cluster;
mod data_server;
mod failing_disk;
mod parts;
