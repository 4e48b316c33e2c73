//! Variables of the environment that are settings, and those that were meant to be.

use super::settings::{SETTINGS, SHARED_VARIABLES, Setting};
use super::value::Given;
use super::{ENV_FILE, ENV_PREFIX, Origin, SettingError, Sources, printable, shown, unknown};

/// The same with one underscore, which is easily written instead. Kubernetes and linked containers give variables that
/// begin so to everybody beside a service called `bitnet-server`, such as `BITNET_SERVER_SERVICE_HOST`.
const NEARLY_PREFIX: &str = "BITNET_SERVER_";

/// Variables of ours; a set but empty one counts as unset, as shells make it easy to end up with one.
pub(super) fn variables(sources: &Sources) -> Result<Vec<(String, String)>, SettingError> {
    let mut variables = Vec::new();
    for (name, value) in &sources.environment {
        let is_ours = |name: &&str| {
            name.starts_with(NEARLY_PREFIX) || SHARED_VARIABLES.iter().any(|(of, _)| of == name)
        };
        let Some(name) = name.to_str().filter(is_ours) else {
            continue;
        };
        let value = value.to_str().ok_or_else(|| SettingError::Invalid {
            origin: Origin::Variable(name.into()),
            key: name.into(),
            value: shown(Given::Text(&value.to_string_lossy())),
            expected: "UTF-8".into(),
        })?;
        if !value.is_empty() {
            variables.push((name.into(), value.into()));
        }
    }
    Ok(variables)
}

/// Whether a variable begins as ours do but for underscores that are not doubled, and is none of those by which
/// Kubernetes and linked containers tell of a service: `..._SERVICE_HOST`, `..._SERVICE_PORT_HTTP`, `..._PORT`,
/// `..._PORT_80_TCP_ADDR`.
pub(super) fn is_misspelt(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix(NEARLY_PREFIX) else {
        return false;
    };
    let is_address =
        (["tcp://", "udp://", "sctp://"].iter()).any(|scheme| value.starts_with(scheme));
    let is_port = (rest.split("PORT_").skip(1)).any(|port| {
        let mut parts = port.split('_');
        let number = parts.next().unwrap_or_default();
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        is_number
            && parts
                .next()
                .is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol))
    });
    let is_of_a_service =
        is_address || is_port || rest.ends_with("SERVICE_HOST") || rest.contains("SERVICE_PORT");
    !is_of_a_service
}

/// The section `server` is the prefix already, and easily said twice; and underscores come in pairs.
pub(super) fn unknown_variable(origin: Origin, name: &str) -> SettingError {
    let doubled = format!("{ENV_PREFIX}SERVER__");
    let meant = match name.strip_prefix(&doubled) {
        Some(rest) => format!("{ENV_PREFIX}{rest}"),
        None if name.starts_with(ENV_PREFIX) => name.to_owned(),
        None => name.replacen(NEARLY_PREFIX, ENV_PREFIX, 1),
    };
    let names = || {
        let settings = SETTINGS.iter().map(Setting::variable);
        settings.chain([ENV_FILE.to_owned()])
    };
    // Whoever knows the flag writes the variable without its section.
    let last = meant.strip_prefix(ENV_PREFIX).unwrap_or(&meant);
    let ending = format!("__{last}");
    let meant = names()
        .find(|name| name.ends_with(&ending))
        .unwrap_or(meant);
    let error = unknown(origin, meant, names());
    match error {
        SettingError::Unknown { origin, hint, .. } => SettingError::Unknown {
            origin,
            key: printable(name),
            hint,
        },
        other => other,
    }
}
