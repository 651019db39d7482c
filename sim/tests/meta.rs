//! Same seed, same trace, byte for byte: without it no seed can be replayed.

use std::process::Command;
use std::sync::{Arc, Mutex};

use sharklock_sim::{Options, run};

/// Lines of a trace, as they were written.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("one thread").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn trace(seed: u64) -> Vec<u8> {
    let lines = Lines::default();
    let mut options = Options::draw(seed);
    options.duration_s = options.duration_s.min(120);
    run(seed, options, Some(Box::new(lines.clone())));
    let lines = lines.0.lock().expect("one thread").clone();
    assert!(lines.len() > 10_000, "a run of seed {seed} leaves a trace");
    lines
}

#[test]
fn equal_seeds_have_equal_traces_in_one_process() {
    for seed in 1..=4 {
        assert!(trace(seed) == trace(seed), "seed {seed}: two runs differ");
    }
    assert!(trace(1) != trace(2), "seeds differ");
}

#[test]
fn equal_seeds_have_equal_traces_in_two_processes() {
    let meta = Command::new(env!("CARGO_BIN_EXE_sharklock-sim"))
        .args(["meta", "--seeds", "2", "--from", "5", "--set", "duration_s=120"])
        .output()
        .expect("the simulator runs");
    let said = String::from_utf8_lossy(&meta.stdout);
    assert!(meta.status.success() && said.contains("seed 6: "), "{said}");
}

#[test]
fn a_replaced_option_is_said_and_an_unknown_one_is_an_error() {
    let simulate = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sharklock-sim")).args(args).output();
        output.expect("the simulator runs")
    };
    let ran = simulate(&["run", "--seed", "1", "--set", "duration_s=5", "--set", "clients=2"]);
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}");
    assert!(said.contains("clients=2") && said.contains("nothing was broken"), "{said}");
    let refused = simulate(&["run", "--seed", "1", "--set", "colour=3"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("no option \"colour\""), "{said}");
}
