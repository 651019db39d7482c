//! Judges archived histories again, as after a judge was improved:
//! `cargo run -p sharklock-history --example check -- FILE…`

use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;

use sharklock_history::{check, read};

fn main() -> ExitCode {
    let mut clean = true;
    for path in std::env::args().skip(1) {
        let history = File::open(&path)
            .map_err(|error| error.to_string())
            .and_then(|file| read(BufReader::new(file)).map_err(|error| error.to_string()));
        match history {
            Ok(history) => {
                let report = check(&history.records);
                println!("{path}: {report}");
                clean &= report.is_clean();
            }
            Err(error) => {
                eprintln!("error: {path}: {error}");
                clean = false;
            }
        }
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
