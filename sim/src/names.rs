//! The locks of a world: some that many want, some that few want, spread over all ranges.

use crate::dice::Dice;
use crate::options::Options;

/// Permits of a lock of permits.
pub const PERMITS: u32 = 3;

/// All names.
#[derive(Clone, Debug)]
pub struct Names {
    hot: Vec<String>,
    cold: Vec<String>,
    hot_pct: u64,
}

impl Names {
    /// Names as the options say. A first letter (behind the prefix of the range, where there are
    /// several) tells what a name is for: `p` for permits, `b` for a lock of which operators may
    /// break the promise (`--now`), `x` for all others.
    pub fn draw_all(options: &Options, dice: &mut Dice) -> Self {
        let ranges = options.ranges.max(1);
        let mut name = |kind: &str, number: u64| {
            let permits = dice.below(100) < options.permit_names_pct;
            format!("{}{kind}{number}", if permits { 'p' } else { 'x' })
        };
        let mut hot: Vec<_> =
            (0..options.hot_names.max(1)).map(|number| name("hot", number)).collect();
        // Where there are many ranges each has a name.
        let cold_count =
            if ranges > 1 { options.cold_names.max(ranges) } else { options.cold_names };
        let mut cold: Vec<_> = (0..cold_count).map(|number| name("cold", number)).collect();
        if options.force_mean_ms > 0 {
            cold.push("broken".to_owned());
        }
        if ranges > 1 {
            for names in [&mut hot, &mut cold] {
                for (at, name) in names.iter_mut().enumerate() {
                    name.insert_str(0, &Self::prefix(at % ranges as usize));
                }
            }
        }
        Self { hot, cold, hot_pct: options.hot_pct }
    }

    /// With what the names of a range begin where there are several, counted from 0.
    pub fn prefix(range: usize) -> String {
        format!("{range:02}/")
    }

    /// The first of the names that are meant for a range.
    pub fn first_in(&self, range: usize) -> Option<&str> {
        let prefix = Self::prefix(range);
        self.all().filter(|name| name.starts_with(&prefix)).min()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.hot.iter().chain(&self.cold).map(String::as_str)
    }

    /// A name, hot ones more often.
    pub fn draw(&self, dice: &mut Dice) -> &str {
        let hot = self.cold.is_empty() || dice.below(100) < self.hot_pct;
        dice.pick::<String>(if hot { &self.hot } else { &self.cold })
    }

    /// Whether it is a lock of permits.
    pub fn has_permits(name: &str) -> bool {
        kind(name).starts_with('p')
    }

    /// Whether operators break the promise of it.
    pub fn is_broken(&self, name: &str) -> bool {
        kind(name).starts_with('b')
    }
}

/// A name without the prefix of its range.
fn kind(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, kind)| kind)
}
