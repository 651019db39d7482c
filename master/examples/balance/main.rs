//! A thousand stores and a hundred thousand ranges: stores join, die and drain, ranges become hot. It
//! shows minute by minute how even the stores are, and writes that as a picture and a table to
//! `docs/internals/`.
//!
//! ```sh
//! cargo run -p sharklock-master --example balance            # 1,000 stores, minutes of real time
//! cargo run -p sharklock-master --example balance -- 100     # a tenth of it
//! ```

mod measure;
mod plot;
mod story;
mod world;

use story::{Scene, Story};

fn main() {
    let stores =
        std::env::args().nth(1).map_or(1_000, |it| it.parse().expect("a number of stores"));
    let story = Story::told(stores, |scene: &Scene| println!("{scene}"));
    println!("{story}");
    if stores == 1_000 {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/internals");
        std::fs::write(format!("{docs}/balance.svg"), plot::svg(&story)).expect("docs are there");
        println!("written: docs/internals/balance.svg");
    }
}
