//! A flag for every setting, made from the table, to be flattened into a command's arguments.

use std::path::PathBuf;
use std::sync::LazyLock;

use bitnet_inference::available_kernels;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

use super::settings::{SETTINGS, Setting};
use super::{ServerConfig, Sources};

/// Names the configuration file.
const FILE: &str = "config";
/// Prints the configuration.
const PRINT: &str = "print-config";
/// Checks the configuration.
const CHECK: &str = "check-config";

/// Under what `--help` lists the flags that are no setting.
const SETTINGS_HEADING: &str = "Settings";

/// Under what `--help` lists each setting: the name of its section as titles are written.
static HEADINGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let heading = |setting: &Setting| {
        let (first, rest) = setting.section.split_at(1);
        first.to_ascii_uppercase() + rest
    };
    SETTINGS.iter().map(heading).collect()
});

/// The flag of each setting: clap keeps names for the life of the process.
static FLAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| SETTINGS.iter().map(Setting::flag).collect());

/// The settings that flags give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigArgs {
    /// `--config`
    pub file: Option<PathBuf>,
    /// `--print-config` or `--check-config`
    pub instead: Option<ConfigTask>,
    /// Flags that were given, without hyphens, and their values.
    pub flags: Vec<(String, String)>,
}

/// What is done with a configuration instead of serving by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigTask {
    /// It is printed, with who set each value.
    Print,
    /// What keeps a server from starting is told, as far as no model has to be read for that.
    Check,
}

impl ConfigArgs {
    /// The sources of this process: these flags and its environment.
    pub fn sources(&self) -> Sources {
        Sources {
            flags: self.flags.clone(),
            file: self.file.clone(),
            ..Sources::of_process()
        }
    }
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<ConfigArgs, clap::Error> {
        let mut args = ConfigArgs::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one(FILE).cloned();
        self.instead = [(PRINT, ConfigTask::Print), (CHECK, ConfigTask::Check)]
            .into_iter()
            .find_map(|(flag, task)| matches.get_flag(flag).then_some(task));
        let given = |name: &String| Some((name.clone(), matches.get_one::<String>(name)?.clone()));
        self.flags = FLAGS.iter().filter_map(given).collect();
        Ok(())
    }
}

/// What `--help` says of a setting: its meaning, what it may be where the words before do not tell that, and its
/// default.
fn help_of(setting: &Setting, defaults: &ServerConfig) -> String {
    let expected = setting.expected();
    let values = match setting.key().as_str() {
        // Which there are depends on the machine, so the table of the documents does not list them.
        "engine.kernel" => Some(available_kernels().join(", ")),
        _ if setting.is_switch => Some(expected),
        _ => match expected.strip_prefix("one of ") {
            Some(words) => Some(words.to_owned()),
            None if expected.contains(" from ") => Some(expected),
            None => None,
        },
    };
    let values = values.map_or(String::new(), |values| format!(" [values: {values}]"));
    let (meaning, default) = (setting.meaning(), setting.value(defaults));
    format!("{meaning}{values} [default: {default}]")
}

impl Args for ConfigArgs {
    fn augment_args(command: Command) -> Command {
        let defaults = ServerConfig::default();
        let file = Arg::new(FILE)
            .long(FILE)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help_heading(SETTINGS_HEADING)
            .help("Configuration file, .yaml or .toml; flags and BITNET_SERVER__* variables win over it");
        let print = Arg::new(PRINT)
            .long(PRINT)
            .action(ArgAction::SetTrue)
            .help_heading(SETTINGS_HEADING)
            .help("Print the configuration, who set each value, and end");
        let check = Arg::new(CHECK)
            .long(CHECK)
            .action(ArgAction::SetTrue)
            .conflicts_with(PRINT)
            .help_heading(SETTINGS_HEADING)
            .help("Tell whether a server could begin with the configuration, and end: 0 if so, else 2 and why not");
        let names = FLAGS.iter().zip(HEADINGS.iter());
        let settings = SETTINGS
            .iter()
            .zip(names)
            .map(|(setting, (flag, heading))| {
                let arg = Arg::new(flag.as_str())
                    .long(flag.as_str())
                    .value_name("VALUE")
                    .help(help_of(setting, &defaults))
                    .help_heading(heading.as_str())
                    .short(setting.short_flag())
                    .visible_aliases(setting.flag_alias());
                if setting.is_switch {
                    arg.num_args(0..=1)
                        .require_equals(true)
                        .default_missing_value("true")
                } else {
                    arg
                }
            });
        command.arg(file).arg(print).arg(check).args(settings)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
