//! What may block or take long, off the loop: looking up names of hosts and of users, and PBKDF2.
//!
//! Threads of their own, so that a stuck resolver holds up no login; and a few for names, so that one that hangs (a name server
//! that does not answer takes half a minute) holds up no other pool's. Answers come back as [`Event`]s.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use mio::Waker;

use crate::arena::ClientKey;
use crate::auth::{KeyDerivation, SaltedPassword};
use crate::engine::{Event, Unresolved, Who};

/// Names that are looked up at once.
const RESOLVERS: usize = 4;

enum Answer {
    Resolved(String, Found),
    Derived(Who, SaltedPassword),
    User(ClientKey, Result<String, String>),
}

/// The threads, and the way to and from them.
pub(super) struct Helpers {
    names: Sender<String>,
    jobs: Sender<(KeyDerivation, Who)>,
    users: Sender<(u32, ClientKey)>,
    answers: Receiver<Answer>,
}

impl Helpers {
    pub(super) fn start(waker: Waker) -> io::Result<Helpers> {
        Helpers::start_with(waker, look_up)
    }

    fn start_with(
        waker: Waker,
        look_up: impl Fn(&str) -> Found + Clone + Send + 'static,
    ) -> io::Result<Helpers> {
        let waker = Arc::new(waker);
        let (names, asked) = mpsc::channel();
        let (jobs, given) = mpsc::channel();
        let (users, unnamed) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let asked = Arc::new(Mutex::new(asked));
        for _ in 0..RESOLVERS {
            let (asked, to, wake) = (asked.clone(), answer.clone(), waker.clone());
            let look_up = look_up.clone();
            thread::Builder::new()
                .name("resolver".to_owned())
                .stack_size(256 * 1024)
                .spawn(move || {
                    let next = || asked.lock().ok()?.recv().ok();
                    work(std::iter::from_fn(next), &to, &wake, |name: String| {
                        let found = look_up(&name);
                        Answer::Resolved(name, found)
                    });
                })?;
        }
        let (to, wake) = (answer.clone(), waker.clone());
        // A directory service may be asked for users, too, and take its time.
        thread::Builder::new()
            .name("users".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                work(unnamed.into_iter(), &to, &wake, |(uid, key)| {
                    Answer::User(key, user_name(uid))
                });
            })?;
        thread::Builder::new()
            .name("keys".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || {
                work(
                    given.into_iter(),
                    &answer,
                    &waker,
                    |(job, who): (KeyDerivation, Who)| Answer::Derived(who, job.run()),
                );
            })?;
        Ok(Helpers {
            names,
            jobs,
            users,
            answers,
        })
    }

    /// Whoever asks sees to it that a name that hangs is asked for once.
    pub(super) fn resolve(&mut self, name: String) {
        let _ = self.names.send(name);
    }

    pub(super) fn derive(&self, job: KeyDerivation, who: Who) {
        let _ = self.jobs.send((job, who));
    }

    pub(super) fn user_name(&self, uid: u32, key: ClientKey) {
        let _ = self.users.send((uid, key));
    }

    /// Takes what is ready.
    pub(super) fn drain(&mut self, events: &mut Vec<Event>) {
        for answer in self.answers.try_iter() {
            match answer {
                Answer::Resolved(name, result) => events.push(Event::Resolved { name, result }),
                Answer::User(key, name) => events.push(Event::UserNamed { key, name }),
                Answer::Derived(who, salted) => events.push(Event::Derived { who, salted }),
            }
        }
    }
}

fn work<T>(
    from: impl Iterator<Item = T>,
    to: &Sender<Answer>,
    waker: &Waker,
    mut run: impl FnMut(T) -> Answer,
) {
    for job in from {
        if to.send(run(job)).is_err() || waker.wake().is_err() {
            return;
        }
    }
}

type Found = Result<Vec<SocketAddr>, Unresolved>;

fn user_name(uid: u32) -> Result<String, String> {
    let user = nix::unistd::User::from_uid(uid.into());
    let why = match user {
        Ok(Some(user)) => return Ok(user.name),
        Ok(None) => "there is none",
        Err(error) => error.desc(),
    };
    Err(format!("could not look up local user ID {uid}: {why}"))
}

fn look_up(name: &str) -> Found {
    let found = (name, 0)
        .to_socket_addrs()
        .map_err(|error| unresolved(name, &error.to_string()))?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.dedup();
    Ok(addresses)
}

/// The standard library only keeps the text of `gai_strerror`. What is not known to be the name's own fault is taken to pass.
fn unresolved(name: &str, error: &str) -> Unresolved {
    let lasting = [
        "Name or service not known",
        "No address associated with hostname",
        "Name does not resolve", // musl's words
    ];
    Unresolved {
        text: format!("could not translate host name \"{name}\": {error}"),
        passing: !lasting.iter().any(|text| error.contains(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// Found by reading: names were looked up one after the other, so that a name server that hangs held up the pools of all
    /// others for longer and longer. (That one name is asked for once is the engine's: `engine/names.rs`.)
    #[test]
    fn a_name_that_hangs_holds_up_no_other() {
        let poll = mio::Poll::new().expect("a poll");
        let waker = Waker::new(poll.registry(), mio::Token(0)).expect("a waker");
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let look_up = move |name: &str| {
            if name == "hangs" {
                let _ = held.lock().expect("nobody panics").recv();
            }
            Ok(Vec::new())
        };
        let mut helpers = Helpers::start_with(waker, look_up).expect("threads");
        helpers.resolve("hangs".to_owned());
        helpers.resolve("quick".to_owned());
        assert_eq!(answer(&mut helpers), "quick");
        drop(release);
        assert_eq!(answer(&mut helpers), "hangs");
    }

    fn answer(helpers: &mut Helpers) -> String {
        let (mut events, begin) = (Vec::new(), Instant::now());
        while events.is_empty() && begin.elapsed() < Duration::from_secs(20) {
            helpers.drain(&mut events);
            thread::yield_now();
        }
        match events.pop() {
            Some(Event::Resolved { name, .. }) => name,
            _ => panic!("one answer"),
        }
    }

    /// What there is no such name of is known; what no name server could be asked for is not.
    #[test]
    fn only_a_name_that_does_not_exist_has_failed_for_good() {
        let nowhere = look_up("nowhere.invalid").expect_err("RFC 6761 has no such name");
        assert!(nowhere.text.contains("nowhere.invalid"));
        let reason = |text| unresolved("x", text).passing;
        assert!(!reason(
            "failed to lookup address information: Name or service not known"
        ));
        assert!(reason(
            "failed to lookup address information: Temporary failure in name resolution"
        ));
    }
}
