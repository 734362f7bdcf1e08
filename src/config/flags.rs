//! The configuration that the command line makes without a file.

use crate::balance::settings::{Policy, Weight};
use crate::config::backend::{Backend, Target};
use crate::config::fault::{At, Fault, Problem};
use crate::config::notation::{self, quoted};
use crate::config::relations::{BackendParts, ListenerParts, Placed, PoolParts, Relations};
use crate::config::{Admin, Bind, Config, Workers, check, file, value};
use crate::limits::WEIGHT_MAX;

/// The least that a file must say. The command line changes what it says; everything else has a file's defaults.
const TEMPLATE: &str = "
[[listener]]
name = 'default'
bind = ':0'
pool = 'default'
[[pool]]
name = 'default'
[[pool.backend]]
address = '127.0.0.1:1'
";

/// What the command line says of the whole process; it counts for more than the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--workers`
    pub workers: Option<Workers>,
    /// `--metrics`
    pub metrics: Option<Bind>,
    /// `--admin`
    pub admin: Option<Admin>,
}

/// What the command line says where there is no file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flags {
    /// `--listen`: the addresses of the one listener.
    pub listen: Vec<Bind>,
    /// `--backend`: the backends of the one pool.
    pub backends: Vec<FlagBackend>,
    /// `--policy`
    pub policy: Option<Policy>,
    /// `--workers`, `--metrics` and `--admin`
    pub overrides: Overrides,
}

/// One `--backend`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagBackend {
    /// Its name: its address, unless a caller has a better one.
    pub name: String,
    /// Where it listens.
    pub address: Target,
    /// Its share.
    pub weight: Weight,
    /// Whether it serves only while no other may.
    pub backup: bool,
}

impl FlagBackend {
    /// A backend of weight 1 that is named after its address.
    pub fn new(address: impl Into<Target>) -> FlagBackend {
        let address = address.into();
        FlagBackend { name: address.to_string(), address, weight: Weight::ONE, backup: false }
    }

    /// Reads `ADDR[,weight=N][,backup]`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<FlagBackend, Problem> {
        let mut parts = text.split(',');
        let address = notation::target(parts.next().unwrap_or_default())?;
        let name = value::backend_name(&address.to_string())?;
        let mut backend = FlagBackend { name, ..FlagBackend::new(address) };
        for part in parts {
            match part.split_once('=') {
                Some(("weight", number)) => backend.weight = weight(number)?,
                None if part == "backup" => backend.backup = true,
                _ => {
                    return Err(Problem::new(
                        format!("{} says nothing of a backend", quoted(part)),
                        "behind the address only `weight=N` and `backup` may stand",
                        "write it as in \"127.0.0.1:3000,weight=2\" or \"127.0.0.1:3001,backup\"",
                    ));
                }
            }
        }
        Ok(backend)
    }
}

/// The configuration of these flags, or nothing where `faults` has got an error.
pub fn config(flags: &Flags, faults: &mut Vec<Fault>) -> Option<Config> {
    relations(flags).check(faults);
    let mut config =
        file::read(TEMPLATE, &mut Vec::new()).and_then(|root| check::check(&root, &flags.overrides, faults))?;
    let (listener, pool) = (config.listeners.first_mut()?, config.pools.first_mut()?);
    listener.bind.clone_from(&flags.listen);
    if let Some(policy) = flags.policy {
        pool.settings.policy = policy;
    }
    let Some(Backend::Fixed(template)) = pool.backends.pop() else { return None };
    let told = |backend: &FlagBackend| {
        Backend::new(backend.address.clone(), |address| {
            let mut settings = template.clone();
            settings.name.clone_from(&backend.name);
            settings.address = address;
            settings.weight = backend.weight;
            settings.backup = backend.backup;
            settings
        })
    };
    pool.backends = flags.backends.iter().map(told).collect();
    Some(config)
}

fn relations(flags: &Flags) -> Relations {
    fn placed<T>(value: T, option: &'static str) -> Placed<T> {
        Placed { value, at: At::Option(option) }
    }
    let default = || "default".to_owned();
    let listener = ListenerParts {
        name: Some(placed(default(), "--listen")),
        bind: flags.listen.iter().map(|bind| placed(bind.clone(), "--listen")).collect(),
        pool: Some(placed(default(), "--listen")),
    };
    let backends = flags.backends.iter().map(|backend| BackendParts {
        name: Some(placed(backend.name.clone(), "--backend")),
        address: Some(placed(backend.address.clone(), "--backend")),
    });
    let pool = PoolParts {
        name: Some(placed(default(), "--backend")),
        header: At::Option("--backend"),
        is_empty: flags.backends.is_empty(),
        backends: backends.collect(),
    };
    Relations {
        metrics: flags.overrides.metrics.clone().map(|bind| placed(bind, "--metrics")),
        listeners: if flags.listen.is_empty() { Vec::new() } else { vec![listener] },
        pools: vec![pool],
    }
}

fn weight(text: &str) -> Result<Weight, Problem> {
    text.parse().ok().and_then(Weight::new).ok_or_else(|| {
        let what = format!("{} is not a weight", quoted(text));
        Problem::new(what, format!("weights are whole numbers from 0 to {WEIGHT_MAX}"), "write it as in `weight=2`")
    })
}
