//! The commands that change something, and those that wait for what they have begun.
//!
//! All of them may be given twice, by several consoles at once and in any order: what is so already is told as a notice. A pause
//! with a timeout undoes itself when that is over, unless somebody else wants the same pause.

use std::time::Duration;

use super::command::{Call, Does};
use super::words::Word;
use crate::arena::{ClientKey, Tick};
use crate::config::{CONSOLE_NAMES, units};
use crate::engine::{Engine, Progress, Scope, Shutdown};
use crate::wire::refusal::Refusal;

/// What a command has begun.
pub(super) enum Done {
    /// It is done; what is to be said besides.
    At(&'static str, Option<String>),
    /// It waits.
    Waits(Waiting),
    /// The connection is about to end, and nothing is said.
    Silently,
}

/// A command that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    what: What,
    /// `None`: everything.
    database: Option<String>,
    since: Tick,
    until: Option<Tick>,
    /// It is undone when its time is over: nobody had ordered the same before.
    undoes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Pause,
    Suspend,
    Close,
}

/// How a command that waits stands.
pub(super) enum Standing {
    /// It waits on, for this.
    On(String),
    /// It is done, with this tag.
    Over(&'static str),
    /// It has failed.
    Failed(Refusal),
}

/// What a command is about.
struct Arguments {
    database: Option<String>,
    timeout: Option<Duration>,
}

impl Arguments {
    fn scope(&self) -> Scope<'_> {
        scope(self.database.as_deref())
    }
}

fn scope(database: Option<&str>) -> Scope<'_> {
    database.map_or(Scope::All, Scope::Database)
}

/// Carries a command out, or begins to.
///
/// # Errors
/// Arguments that are not there, or too many; what it is about is not there.
pub(super) fn run(engine: &mut Engine, call: &Call) -> Result<Done, Refusal> {
    let tag = call.spec.name;
    match call.does {
        Does::Pause => {
            let given = arguments(engine, call, "pause")?;
            let new = engine.pause(given.scope());
            log::info!("PAUSE{} command issued", of(given.database.as_deref()));
            Ok(Done::Waits(Waiting::new(engine, What::Pause, given, new)))
        }
        Does::Suspend => {
            if !call.rest.is_empty() {
                return Err(wrong(call, "SUSPEND takes no arguments"));
            }
            engine
                .suspend()
                .map_err(|why| Refusal::error(b"55000", why))?;
            log::info!("SUSPEND command issued");
            let given = Arguments {
                database: None,
                timeout: None,
            };
            Ok(Done::Waits(Waiting::new(
                engine,
                What::Suspend,
                given,
                false,
            )))
        }
        Does::WaitClose => {
            let given = arguments(engine, call, "wait in")?;
            Ok(Done::Waits(Waiting::new(engine, What::Close, given, false)))
        }
        Does::Resume => {
            let given = arguments(engine, call, "resume")?;
            if engine.is_stopping() && !engine.is_succeeded() {
                return Err(Refusal::error(b"55000", "pooler is shutting down"));
            }
            let was = engine.resume(given.scope());
            log::info!("RESUME{} command issued", of(given.database.as_deref()));
            let text = match &given.database {
                None => "pooler is not paused/suspended".to_owned(),
                Some(name) => format!("database {name} is not paused"),
            };
            Ok(Done::At(tag, (!was).then_some(text)))
        }
        Does::Disable | Does::Enable => {
            let disables = call.does == Does::Disable;
            let verb = if disables { "disable" } else { "enable" };
            let given = arguments(engine, call, verb)?;
            let name = given
                .database
                .ok_or_else(|| wrong(call, "a database is required"))?;
            let new = if disables {
                engine.disable(&name)
            } else {
                engine.enable(&name)
            };
            log::info!("{tag} '{name}' command issued");
            let text = format!("database {name} is {verb}d already");
            Ok(Done::At(tag, (!new).then_some(text)))
        }
        Does::Reconnect => {
            let given = arguments(engine, call, "reconnect")?;
            engine.reconnect(given.scope());
            log::info!("RECONNECT{} command issued", of(given.database.as_deref()));
            Ok(Done::At(tag, None))
        }
        Does::Kill => {
            let given = arguments(engine, call, "kill")?;
            engine.kill(given.scope());
            log::info!("KILL{} command issued", of(given.database.as_deref()));
            Ok(Done::At(tag, None))
        }
        Does::KillClient | Does::CancelClient => {
            let id = client_id(call)?;
            log::info!("{tag} {id} command issued");
            let found = match call.does {
                Does::KillClient => engine.kill_client(id),
                _ => engine.cancel_client(id),
            };
            match found {
                true => Ok(Done::At(tag, None)),
                false => Err(Refusal::error(b"22023", "client not found")
                    .hint("It is the column id of SHOW CLIENTS.")),
            }
        }
        Does::Shutdown => {
            let how = match call.rest.as_slice() {
                [] => Shutdown::Immediate,
                [word] if word.is("WAIT_FOR_SERVERS") => Shutdown::WaitForServers,
                [word] if word.is("WAIT_FOR_CLIENTS") => Shutdown::WaitForClients,
                _ => return Err(wrong(call, "bad arguments")),
            };
            log::info!("SHUTDOWN command issued");
            engine.shut_down(how);
            Ok(match how {
                Shutdown::Immediate => Done::Silently,
                _ => Done::At(tag, None),
            })
        }
        Does::Show(_) | Does::Set | Does::Reload | Does::AddDatabase | Does::DropDatabase => {
            Err(wrong(call, "bad arguments"))
        }
    }
}

fn of(database: Option<&str>) -> String {
    database.map_or(String::new(), |name| format!(" '{name}'"))
}

/// What is wrong with a command, and how it is meant.
pub(super) fn wrong(call: &Call, text: &str) -> Refusal {
    let form = format!("{} {}", call.spec.name, call.spec.form);
    Refusal::error(b"42601", text).hint(format!("The form is: {}", form.trim_end()))
}

/// `[database] [TIMEOUT 'time']`
fn arguments(engine: &Engine, call: &Call, verb: &str) -> Result<Arguments, Refusal> {
    let bad = || wrong(call, "bad arguments");
    let waits = matches!(call.does, Does::Pause | Does::WaitClose);
    let (names, timeout) = match call.rest.as_slice() {
        [names @ .., word, time] if waits && word.is("TIMEOUT") => (names, Some(time)),
        names => (names, None),
    };
    let timeout = timeout.map(|word| read_time(call, word)).transpose()?;
    let database = match names {
        [] => None,
        [name] => Some(name.name().ok_or_else(bad)?),
        _ => return Err(bad()),
    };
    if let Some(name) = database
        && !engine.has_database(name)
    {
        return Err(match CONSOLE_NAMES.contains(&name) {
            true => Refusal::error(b"22023", format!("cannot {verb} admin db: {name}")),
            false => unknown(engine, name),
        });
    }
    Ok(Arguments {
        database: database.map(str::to_owned),
        timeout,
    })
}

pub(super) fn unknown(engine: &Engine, name: &str) -> Refusal {
    let refusal = Refusal::error(b"3D000", format!("no such database: {name}"));
    let names = engine.config().databases.keys().map(String::as_str);
    match crate::config::nearest(name, names) {
        Some(nearest) => refusal.hint(format!("Did you mean {nearest}?")),
        None => refusal.hint("SHOW DATABASES lists them."),
    }
}

fn read_time(call: &Call, word: &Word) -> Result<Duration, Refusal> {
    let time = word.name().and_then(|text| units::duration(text).ok());
    time.filter(|time| !time.is_zero())
        .ok_or_else(|| wrong(call, "TIMEOUT takes a time, such as '5s' or '500ms'"))
}

fn client_id(call: &Call) -> Result<u64, Refusal> {
    let id = match call.rest.as_slice() {
        [word] => word.name().and_then(|text| text.parse().ok()),
        _ => None,
    };
    id.ok_or_else(|| {
        wrong(call, "invalid client pointer supplied")
            .detail("A client is named by the column id of SHOW CLIENTS.")
    })
}

impl Waiting {
    fn new(engine: &Engine, what: What, given: Arguments, undoes: bool) -> Waiting {
        Waiting {
            what,
            database: given.database,
            since: engine.now(),
            until: given.timeout.map(|time| engine.now().plus(time)),
            undoes,
        }
    }

    /// When it has to be looked at, whatever happens.
    pub(super) fn until(&self) -> Option<Tick> {
        self.until
    }

    fn name(&self) -> String {
        let verb = match self.what {
            What::Pause => "PAUSE",
            What::Suspend => "SUSPEND",
            What::Close => "WAIT_CLOSE",
        };
        format!("{verb}{}", of(self.database.as_deref()))
    }

    /// How it stands.
    pub(super) fn standing(&self, engine: &Engine) -> Standing {
        let scope = scope(self.database.as_deref());
        let (tag, left) = match self.what {
            What::Pause => match engine.pause_progress(scope) {
                Progress::Done => return Standing::Over("PAUSE"),
                Progress::Waiting(left) => ("PAUSE", left),
                Progress::Undone => {
                    let text = format!("{} was undone: somebody has resumed", self.name());
                    return Standing::Failed(Refusal::error(b"57014", text));
                }
            },
            What::Suspend => match engine.suspend_progress() {
                Progress::Done => return Standing::Over("SUSPEND"),
                Progress::Waiting(left) => {
                    let text =
                        format!("SUSPEND: {left} connections have not taken what was sent to them");
                    return Standing::On(text);
                }
                Progress::Undone => {
                    let text = "SUSPEND was undone: somebody has resumed";
                    return Standing::Failed(Refusal::error(b"57014", text));
                }
            },
            What::Close => match engine.left_to_close(scope) {
                0 => return Standing::Over("WAIT_CLOSE"),
                left => ("WAIT_CLOSE", left),
            },
        };
        let left = format!("{left} server connections are still in use");
        if self.until.is_some_and(|until| engine.now() >= until) {
            let after = Duration::from_micros(engine.now().since(self.since));
            let text = format!(
                "{tag} has timed out after {:.1} s: {left}",
                after.as_secs_f64()
            );
            let refusal = Refusal::error(b"57014", text);
            return Standing::Failed(match (self.what, self.undoes) {
                (What::Close | What::Suspend, _) => refusal,
                (What::Pause, true) => refusal.detail("The pause was undone."),
                (What::Pause, false) => refusal.detail(
                    "It was paused before, or somebody else waits for the same: it stays so.",
                ),
            });
        }
        Standing::On(format!("{}: {left}", self.name()))
    }

    /// It waits no more, and not because it is done: a pause of its own is undone, or is another's from now on.
    pub(super) fn give_up<'a>(
        &self,
        engine: &mut Engine,
        mut others: impl Iterator<Item = &'a mut Waiting>,
    ) {
        if self.what != What::Pause || !self.undoes {
            return;
        }
        let heir =
            others.find(|other| (other.what, &other.database) == (self.what, &self.database));
        match heir {
            Some(heir) => heir.undoes = heir.until.is_some(),
            None => {
                engine.resume(scope(self.database.as_deref()));
            }
        }
    }

    /// Its session wants it no more. As [`Waiting::give_up`], and a suspension that nobody else waits for ends.
    pub(super) fn cancelled<'a>(
        &self,
        engine: &mut Engine,
        mut others: impl Iterator<Item = &'a mut Waiting>,
    ) {
        match self.what {
            What::Suspend if !others.any(|other| other.what == What::Suspend) => {
                engine.resume(Scope::All);
            }
            _ => self.give_up(engine, others),
        }
    }

    /// Whether its time was over.
    pub(super) fn is_late(&self, now: Tick) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

/// A command of a session that waits.
pub(super) struct Waiter {
    pub(super) client: ClientKey,
    pub(super) waiting: Waiting,
}
