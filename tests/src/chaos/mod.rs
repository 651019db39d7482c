//! Chaos on a cluster of containers: a plan that a seed decides, the faults that it names, loads in
//! containers beside the cluster, and the verdict over everything that their clients saw.
//!
//! `sharklock-chaos` is the program, `scripts/chaos-compose.sh` the way to run it. What is done to the cluster
//! and when follows from the seed alone ([`plan`]); what clients do meanwhile is the machine's affair.

pub mod bounds;
pub mod clients;
pub mod cluster;
pub mod diary;
pub mod effect;
pub mod evidence;
pub mod fault;
pub mod keep;
pub mod lapses;
pub mod load;
pub mod look;
pub mod mend;
pub mod minima;
pub mod names;
pub mod network;
pub mod operator;
pub mod overlay;
pub mod plan;
pub mod program;
pub mod replacement;
pub mod report;
pub mod resource;
pub mod restarts;
pub mod run;
pub mod shell;
pub mod small_disk;
pub mod strike;
pub mod svg;
pub mod timeline;
pub mod watch;
