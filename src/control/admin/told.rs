//! What a request says of a backend becomes what it means, by the rules of the configuration.

use std::borrow::Cow;
use std::time::Duration;

use toml::de::DeValue;

use crate::address::Address;
use crate::balance::settings::{BackendSettings, State, Weight};
use crate::config::backend::{Backend, Target};
use crate::config::{Problem, notation, value};
use crate::control::wire::Told;
use crate::limits::{CONNECTIONS_MAX, FAILS_MAX, LEASE_MAX, LEASE_MIN, TIMEOUT_MAX, WEIGHT_MAX};

use super::answer::Refused;

/// A backend that is told all that it is: what the request does not say is as `defaults` has it. `name` counts where the
/// request has none.
///
/// # Errors
/// What is wrong with it; `place` says where it stands.
pub fn backend(
    told: &Told,
    name: Option<&str>,
    place: &str,
    defaults: impl FnOnce(&str, Address) -> BackendSettings,
) -> Result<Backend, Refused> {
    let Some(address) = &told.address else {
        let problem = Problem::new("it is missing", "a backend without it cannot be connected to", "add `address`");
        return Err(Refused::value(&at(place, "address"), problem));
    };
    let target = notation::target(address).map_err(|problem| Refused::value(&at(place, "address"), problem))?;
    let shown = target.to_string();
    let name = told.name.as_deref().or(name).unwrap_or(&shown);
    let name = value::backend_name(name).map_err(|problem| Refused::value(&at(place, "name"), problem))?;
    let change = change(told, place)?;
    Ok(Backend::new(target, |address| {
        let mut settings = defaults(&name, address);
        change(&mut settings);
        settings
    }))
}

/// What a request changes of a backend: only what it says. Its name and address are not among it.
///
/// # Errors
/// What is wrong with it; `place` says where it stands.
pub fn change(told: &Told, place: &str) -> Result<impl Fn(&mut BackendSettings) + use<>, Refused> {
    let wrong = |field: &'static str| move |problem| Refused::value(&at(place, field), problem);
    let weight = told.weight.map(|weight| number(weight, WEIGHT_MAX)).transpose().map_err(wrong("weight"))?;
    let weight = weight.and_then(Weight::new);
    let max_connections = told.max_connections.map(|max| number(max, CONNECTIONS_MAX)).transpose();
    let max_connections = max_connections.map_err(wrong("max_connections"))?;
    let max_fails = told.max_fails.map(|max| number(max, FAILS_MAX)).transpose().map_err(wrong("max_fails"))?;
    let least = Duration::from_millis(1);
    let fail_timeout = told.fail_timeout.as_deref().map(|text| duration(text, least, TIMEOUT_MAX)).transpose();
    let fail_timeout = fail_timeout.map_err(wrong("fail_timeout"))?;
    let slow_start = told.slow_start.as_deref().map(|text| duration(text, Duration::ZERO, TIMEOUT_MAX)).transpose();
    let slow_start = slow_start.map_err(wrong("slow_start"))?;
    let state = told.state.as_deref().map(state).transpose().map_err(wrong("state"))?;
    let backup = told.backup;
    Ok(move |settings: &mut BackendSettings| {
        settings.weight = weight.unwrap_or(settings.weight);
        settings.backup = backup.unwrap_or(settings.backup);
        settings.max_connections = max_connections.unwrap_or(settings.max_connections);
        settings.max_fails = max_fails.unwrap_or(settings.max_fails);
        settings.fail_timeout = fail_timeout.unwrap_or(settings.fail_timeout);
        settings.slow_start = slow_start.unwrap_or(settings.slow_start);
        settings.state = state.unwrap_or(settings.state);
    })
}

/// The address that a backend is moved to.
///
/// # Errors
/// It is no address, or a name that would have to be looked up.
pub fn address(text: &str) -> Result<Address, Refused> {
    match notation::target(text).map_err(|problem| Refused::value("`address`", problem))? {
        Target::Address(address) => Ok(address),
        Target::Host(host) => {
            let problem = Problem::new(
                format!("{host} is a host name"),
                "a backend of one address cannot become the backends of a host",
                "remove it, and add the host under its name",
            );
            Err(Refused::value("`address`", problem))
        }
    }
}

/// How long a registration lasts.
///
/// # Errors
/// It is no duration, or too short or long for a lease.
pub fn ttl(text: &str) -> Result<Duration, Refused> {
    duration(text, LEASE_MIN, LEASE_MAX).map_err(|problem| Refused::value("`ttl`", problem))
}

/// A duration as the configuration writes it.
///
/// # Errors
/// It is none, or out of range.
pub fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, Problem> {
    value::duration(&DeValue::String(Cow::Borrowed(text)), least..=most)
}

fn number(number: u32, most: u32) -> Result<u32, Problem> {
    if number <= most {
        return Ok(number);
    }
    Err(Problem::new(
        format!("{number} is out of range"),
        format!("the most is {most}"),
        format!("send a number from 0 to {most}"),
    ))
}

fn state(text: &str) -> Result<State, Problem> {
    State::ALL.iter().copied().find(|state| state.name() == text).ok_or_else(|| {
        let names = State::ALL.iter().map(|state| state.name());
        let help = match value::nearest(text, names) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "send one of \"ready\", \"drain\", \"maint\"".to_owned(),
        };
        let what = format!("{} is not a state", notation::quoted(text));
        Problem::new(what, "a backend is told to serve, to drain or to be left alone", help)
    })
}

fn at(place: &str, field: &str) -> String {
    if place.is_empty() { format!("`{field}`") } else { format!("{place}: `{field}`") }
}
