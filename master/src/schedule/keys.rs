//! The settings by their names, as operators and the masters' log have them.

use std::{collections::BTreeMap, time::Duration};

use super::Settings;

/// How a setting is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// It is a number.
    Count,
    /// Milliseconds.
    Time,
    /// Thousandths.
    PerMille,
}

/// A setting.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// How it is measured.
    pub unit: Unit,
    /// What it does, for people.
    pub meaning: &'static str,
    get: fn(&Settings) -> u64,
    set: fn(&mut Settings, u64),
}

impl Key {
    /// As it stands in these settings.
    pub fn of(&self, settings: &Settings) -> u64 {
        (self.get)(settings)
    }
}

/// What operators have changed, by name.
pub type Choices = BTreeMap<String, u64>;

macro_rules! count {
    ($name:literal, $($field:ident).+, $meaning:literal) => {
        Key {
            name: $name,
            unit: Unit::Count,
            meaning: $meaning,
            get: |it| it.$($field).+ as u64,
            // Too much is cut off; it is out of bounds as well.
            set: |it, value| it.$($field).+ = value.min(1 << 20).try_into().expect("it fits"),
        }
    };
}

macro_rules! time {
    ($name:literal, $field:ident, $meaning:literal) => {
        Key {
            name: $name,
            unit: Unit::Time,
            meaning: $meaning,
            get: |it| it.$field.as_millis().try_into().unwrap_or(u64::MAX),
            set: |it, value| it.$field = Duration::from_millis(value),
        }
    };
}

/// All settings that may be changed while the masters run.
pub const KEYS: [Key; 12] = [
    count!("replicas", replicas, "voters of each range: an odd number"),
    Key {
        name: "tolerance",
        unit: Unit::PerMille,
        meaning: "stores are balanced while they differ from the mean by no more",
        get: |it| it.tolerance.into(),
        set: |it, value| it.tolerance = value.try_into().unwrap_or(u32::MAX),
    },
    time!("cool-down", cool_down, "balancing leaves a leader where it is for so long"),
    time!(
        "patience",
        patience,
        "nothing is planned for so long after a change of the leading master"
    ),
    time!("unheard", unheard, "a replica that its leader does not hear is replaced after so long"),
    Key {
        name: "load-floor",
        unit: Unit::Count,
        meaning: "commands per second whose place is not worth a change of leaders",
        get: |it| it.load_floor,
        set: |it, value| it.load_floor = value,
    },
    count!(
        "urgent.coming",
        urgent.coming,
        "replicas that come to a store at a time, to repair or drain"
    ),
    count!(
        "urgent.sending",
        urgent.sending,
        "replicas that a store fills at a time, to repair or drain"
    ),
    count!(
        "urgent.leaders",
        urgent.leaders,
        "leaderships that come to a store at a time, to repair or drain"
    ),
    count!("coming", leisurely.coming, "replicas that come to a store at a time, to balance"),
    count!("sending", leisurely.sending, "replicas that a store fills at a time, to balance"),
    count!("leaders", leisurely.leaders, "leaderships that come to a store at a time, to balance"),
];

/// The setting of this name.
///
/// # Errors
/// There is none; a sentence for people.
pub fn key(name: &str) -> Result<&'static Key, String> {
    KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
        let names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        format!("there is no setting {name:?}: choose from {}", names.join(", "))
    })
}

impl Settings {
    /// With what operators have changed. A name that this program does not know has no effect.
    #[must_use]
    pub fn with(mut self, choices: &Choices) -> Self {
        for key in &KEYS {
            if let Some(value) = choices.get(key.name) {
                (key.set)(&mut self, *value);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_can_be_changed_by_its_name_and_changes_no_other() {
        let usual = Settings::default();
        for changed in &KEYS {
            let value = changed.of(&usual) + 2;
            let choices = Choices::from([(changed.name.to_owned(), value)]);
            let settings = usual.with(&choices);
            for key in &KEYS {
                let expected = if key.name == changed.name { value } else { key.of(&usual) };
                assert_eq!(key.of(&settings), expected, "{} by {}", key.name, changed.name);
            }
            assert_eq!(key(changed.name).map(|key| key.name), Ok(changed.name));
        }
        assert_eq!(usual.with(&Choices::from([("unknown".to_owned(), 7)])), usual);
        let why = key("replica").expect_err("it is not one");
        assert!(why.contains("choose from replicas, tolerance"), "{why}");
    }

    #[test]
    fn what_is_far_too_much_is_out_of_bounds() {
        for key in KEYS.iter().filter(|key| key.name != "load-floor") {
            let choices = Choices::from([(key.name.to_owned(), u64::MAX)]);
            let settings = Settings::default().with(&choices);
            assert!(settings.check().is_err(), "{}", key.name);
        }
    }
}
