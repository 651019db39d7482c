//! `sharklock schedule …`: what the masters do by themselves.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;
use sharklock_client::{
    CallError, Client, GetScheduleResponse, PlannedChange, ScheduleSetting, SetScheduleResponse,
    SettingUnit,
};

use super::{client, ops, orders, show, view::Wide};
use crate::{
    args::{ReachArgs, ScheduleCommand, SetArgs},
    exit::{Failure, OK, USAGE},
    identity,
    render::{exact, printable, table},
};

/// The value with which a choice is taken back.
const DEFAULT: &str = "default";

/// `schedule show`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Schedule")]
pub struct Schedule {
    /// The masters begin nothing by themselves.
    pub is_paused: bool,
    /// Whoever has said so.
    pub paused_by: String,
    /// What would be done next.
    pub plans: Vec<Planned>,
    /// The things that are in the way, a sentence each.
    pub warnings: Vec<String>,
    /// Every setting, as it is.
    pub settings: Vec<Setting>,
}

/// `schedule set`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.ScheduleSettings")]
pub struct Settings {
    /// They would be so: nothing was changed.
    pub dry_run: bool,
    /// Every setting, as it is.
    pub settings: Vec<Setting>,
}

/// A setting of the schedule.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// Its name.
    pub key: String,
    /// As it is typed: `5`, `10m`, `3%`.
    pub value: String,
    /// Nobody has set it.
    pub is_default: bool,
    /// What it does.
    pub meaning: String,
}

/// A change that the masters would begin.
#[derive(Debug, Serialize)]
pub struct Planned {
    /// The range.
    pub range_id: Wide,
    /// What would become of it.
    pub goal: String,
    /// What it is for: `repair`, `drain`, `balance`.
    pub class: String,
    /// Why.
    pub reason: String,
}

impl Planned {
    pub(super) fn of(plan: PlannedChange) -> Self {
        Self {
            range_id: Wide(plan.range_id),
            goal: ops::goal_in_words(&plan.goal.unwrap_or_default()),
            class: plan.class,
            reason: plan.reason,
        }
    }
}

/// A percentage as it is typed: `3%`, `2.5%`.
pub(super) fn percentage(per_mille: u64) -> String {
    match per_mille % 10 {
        0 => format!("{}%", per_mille / 10),
        tenth => format!("{}.{tenth}%", per_mille / 10),
    }
}

impl Setting {
    fn of(seen: &ScheduleSetting) -> Self {
        let value = match seen.unit() {
            SettingUnit::Unspecified => seen.value.to_string(),
            SettingUnit::Milliseconds => exact(Duration::from_millis(seen.value)).replace(' ', ""),
            SettingUnit::PerMille => percentage(seen.value),
        };
        let ScheduleSetting { key, is_default, meaning, .. } = seen.clone();
        Self { key, value, is_default, meaning }
    }
}

fn settings_table(settings: &[Setting]) -> String {
    let row = |setting: &Setting| {
        let Setting { key, value, is_default, meaning } = setting;
        let by = if *is_default { DEFAULT } else { "set" };
        vec![key.clone(), value.clone(), by.to_owned(), meaning.clone()]
    };
    let rows: Vec<_> = settings.iter().map(row).collect();
    table(&["SETTING", "VALUE", "BY", "MEANING"], &rows)
}

impl Schedule {
    pub(super) fn of(seen: GetScheduleResponse) -> Self {
        let GetScheduleResponse { is_paused, paused_by, plans, warnings, settings } = seen;
        let plans = plans.into_iter().map(Planned::of).collect();
        let settings = settings.iter().map(Setting::of).collect();
        Self { is_paused, paused_by, plans, warnings, settings }
    }

    fn table(&self) -> String {
        let mut text = match self.is_paused {
            true => format!("the schedule is paused, by {}\n", printable(&self.paused_by)),
            false => "the schedule runs\n".to_owned(),
        };
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {}", printable(warning));
        }
        text + &self.plans_table() + "\n" + &settings_table(&self.settings)
    }

    fn plans_table(&self) -> String {
        if self.plans.is_empty() {
            return "nothing is to be done\n".to_owned();
        }
        let row = |plan: &Planned| {
            vec![plan.range_id.0.to_string(), plan.class.clone(), plan.reason.clone()]
        };
        let rows: Vec<_> = self.plans.iter().map(row).collect();
        "\n".to_owned() + &table(&["RANGE", "FOR", "WHY"], &rows)
    }
}

/// `sharklock schedule …`.
pub async fn schedule(reach: &ReachArgs, command: ScheduleCommand) -> Result<u8, Failure> {
    let client = client(reach)?;
    let operator = identity::default_owner();
    match command {
        ScheduleCommand::Show { output } => {
            let seen = Schedule::of(client.schedule().await.map_err(failure)?);
            show(output, &seen, Schedule::table)?;
        }
        ScheduleCommand::Pause => {
            client.pause_schedule(true, &operator).await.map_err(failure)?;
        }
        ScheduleCommand::Resume => {
            client.pause_schedule(false, &operator).await.map_err(failure)?;
        }
        ScheduleCommand::Set(args) => set(&client, args, &operator).await?,
    }
    Ok(OK)
}

/// What somebody has typed, in the setting's unit.
fn parsed(known: &ScheduleSetting, text: &str) -> Result<u64, String> {
    let key = &known.key;
    match known.unit() {
        SettingUnit::Unspecified => {
            text.parse().map_err(|_not_one| format!("{key}: expected a number, got {text:?}"))
        }
        SettingUnit::Milliseconds => {
            let time = humantime::parse_duration(text)
                .map_err(|why| format!("{key}: {why}; give a duration, like 30s or 10m"))?;
            u64::try_from(time.as_millis())
                .map_err(|_too_long| format!("{key}: {text} is too long"))
        }
        SettingUnit::PerMille => {
            let bad = || format!("{key}: expected a percentage, like 3% or 2.5%, got {text:?}");
            let number = text.strip_suffix('%').ok_or_else(bad)?;
            let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
            let (whole, tenth): (u64, u64) =
                whole.parse().ok().zip(tenth.parse().ok()).ok_or_else(bad)?;
            match tenth {
                0..=9 if whole <= 1_000 => Ok(whole * 10 + tenth),
                _ => Err(bad()),
            }
        }
    }
}

fn failure(error: CallError) -> Failure {
    orders::failure(error, "try again: it is the same whether it was done or not")
}

async fn set(client: &Client, args: SetArgs, operator: &str) -> Result<(), Failure> {
    let known = client.schedule().await.map_err(failure)?.settings;
    let (mut settings, mut reset) = (Vec::new(), Vec::new());
    for (key, text) in args.choices {
        let Some(setting) = known.iter().find(|setting| setting.key == key) else {
            let keys: Vec<_> = known.iter().map(|setting| setting.key.as_str()).collect();
            let what = format!("there is no setting {key:?}");
            return Err(Failure::new(USAGE, what).hint(format!("choose from {}", keys.join(", "))));
        };
        if text == DEFAULT {
            reset.push(key);
            continue;
        }
        let value = parsed(setting, &text).map_err(|why| Failure::new(USAGE, why))?;
        settings.push(ScheduleSetting { key, value, ..ScheduleSetting::default() });
    }
    let done = client.set_schedule(settings, reset, args.dry_run, operator).await;
    let SetScheduleResponse { settings } = done.map_err(failure)?;
    let settings = settings.iter().map(Setting::of).collect();
    let settings = Settings { dry_run: args.dry_run, settings };
    show(args.output, &settings, |it| settings_table(&it.settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_typed() {
        for (unit, value, text) in [
            (SettingUnit::Unspecified, 5, "5"),
            (SettingUnit::Milliseconds, 630_500, "10m30s500ms"),
            (SettingUnit::PerMille, 30, "3%"),
            (SettingUnit::PerMille, 25, "2.5%"),
        ] {
            let unit = unit.into();
            let known = ScheduleSetting { value, unit, ..ScheduleSetting::default() };
            assert_eq!(Setting::of(&known).value, text);
            assert_eq!(parsed(&known, text), Ok(value));
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_with_what_would() {
        for (unit, text, hint) in [
            (SettingUnit::Unspecified, "five", "expected a number"),
            (SettingUnit::Milliseconds, "10", "like 30s or 10m"),
            (SettingUnit::PerMille, "3", "like 3% or 2.5%"),
            (SettingUnit::PerMille, "3.25%", "like 3% or 2.5%"),
            (SettingUnit::PerMille, "99999999999999999999%", "like 3% or 2.5%"),
        ] {
            let known = ScheduleSetting { unit: unit.into(), ..ScheduleSetting::default() };
            let why = parsed(&known, text).expect_err(text);
            assert!(why.contains(hint), "{why}");
        }
    }
}
