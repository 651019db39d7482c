//! The locks of a world: some that many want, some that few want.

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
    /// Names as the options say. A first letter tells what a name is for: `p` for permits, `b` for
    /// a lock of which operators may break the promise (`--now`), `x` for all others.
    pub fn draw_all(options: &Options, dice: &mut Dice) -> Self {
        let mut name = |kind: &str, number: u64| {
            let permits = dice.below(100) < options.permit_names_pct;
            format!("{}{kind}{number}", if permits { 'p' } else { 'x' })
        };
        let hot = (0..options.hot_names.max(1)).map(|number| name("hot", number)).collect();
        let mut cold: Vec<_> = (0..options.cold_names).map(|number| name("cold", number)).collect();
        if options.force_mean_ms > 0 {
            cold.push("broken".to_owned());
        }
        Self { hot, cold, hot_pct: options.hot_pct }
    }

    /// A name, hot ones more often.
    pub fn draw(&self, dice: &mut Dice) -> &str {
        let hot = self.cold.is_empty() || dice.below(100) < self.hot_pct;
        dice.pick::<String>(if hot { &self.hot } else { &self.cold })
    }

    /// Whether it is a lock of permits.
    pub fn has_permits(name: &str) -> bool {
        name.starts_with('p')
    }

    /// Whether operators break the promise of it.
    pub fn is_broken(&self, name: &str) -> bool {
        name.starts_with('b')
    }
}
