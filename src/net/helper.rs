//! What may block or take long, off the loop: looking up names of hosts and of users, and PBKDF2.
//!
//! Threads of their own, so that a stuck resolver holds up no login; and a few for names, so that one that hangs (a name server
//! that does not answer takes half a minute) holds up no other pool's. Answers come back as [`Event`]s.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mio::Waker;

use crate::arena::{ClientKey, ServerKey};
use crate::auth::{KeyDerivation, SaltedPassword};
use crate::engine::{Event, Who};

/// How long an answer serves those who ask the same.
const FRESH: Duration = Duration::from_millis(500);

/// Names that are looked up at once.
const RESOLVERS: usize = 4;

/// A name to look up, and the port.
type Question = (String, u16);

enum Answer {
    Resolved(Question, Found),
    Derived(Who, SaltedPassword),
    User(ClientKey, Result<String, String>),
}

/// The threads, and the way to and from them.
pub(super) struct Helpers {
    questions: Sender<Question>,
    jobs: Sender<(KeyDerivation, Who)>,
    users: Sender<(u32, ClientKey)>,
    answers: Receiver<Answer>,
    /// Who waits for which name. Each is asked for once at a time, however long it takes.
    waiting: BTreeMap<Question, Vec<ServerKey>>,
}

impl Helpers {
    pub(super) fn start(waker: Waker) -> io::Result<Helpers> {
        Helpers::start_with(waker, look_up)
    }

    fn start_with(
        waker: Waker,
        look_up: impl Fn(&str, u16) -> Found + Clone + Send + 'static,
    ) -> io::Result<Helpers> {
        let waker = Arc::new(waker);
        let (questions, asked) = mpsc::channel();
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
                    let mut last = LastAnswer::default();
                    let next = || asked.lock().ok()?.recv().ok();
                    work(
                        std::iter::from_fn(next),
                        &to,
                        &wake,
                        |(name, port): Question| {
                            let found = last.look_up(&name, port, &look_up);
                            Answer::Resolved((name, port), found)
                        },
                    );
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
            questions,
            jobs,
            users,
            answers,
            waiting: BTreeMap::new(),
        })
    }

    pub(super) fn resolve(&mut self, name: String, port: u16, key: ServerKey) {
        let question = (name, port);
        let waiting = self.waiting.entry(question.clone()).or_default();
        waiting.push(key);
        if waiting.len() == 1 {
            let _ = self.questions.send(question);
        }
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
                Answer::Resolved(question, result) => {
                    let keys = self.waiting.remove(&question).unwrap_or_default();
                    events.extend(keys.into_iter().map(|key| Event::Resolved {
                        key,
                        result: result.clone(),
                    }));
                }
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

/// The last answer, for the many that ask at once when a pool opens its connections.
#[derive(Default)]
struct LastAnswer(Option<(String, u16, Instant, Found)>);

type Found = Result<Vec<SocketAddr>, String>;

impl LastAnswer {
    fn look_up(&mut self, name: &str, port: u16, look_up: impl Fn(&str, u16) -> Found) -> Found {
        if let Some((known, at, when, answer)) = &self.0
            && (known.as_str(), *at) == (name, port)
            && when.elapsed() < FRESH
        {
            return answer.clone();
        }
        let answer = look_up(name, port);
        self.0 = Some((name.to_owned(), port, Instant::now(), answer.clone()));
        answer
    }
}

fn user_name(uid: u32) -> Result<String, String> {
    let user = nix::unistd::User::from_uid(uid.into());
    let why = match user {
        Ok(Some(user)) => return Ok(user.name),
        Ok(None) => "there is none",
        Err(error) => error.desc(),
    };
    Err(format!("could not look up local user ID {uid}: {why}"))
}

fn look_up(name: &str, port: u16) -> Found {
    let found = (name, port)
        .to_socket_addrs()
        .map_err(|error| format!("could not translate host name \"{name}\": {error}"))?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Found by reading: names were looked up one after the other, the same one as often as it was asked for, so that a name
    /// server that hangs held up the pools of all others for longer and longer.
    #[test]
    fn a_name_that_hangs_is_asked_for_once_and_holds_up_no_other() {
        let poll = mio::Poll::new().expect("a poll");
        let waker = Waker::new(poll.registry(), mio::Token(0)).expect("a waker");
        let (release, held) = mpsc::channel::<()>();
        let (held, calls) = (Arc::new(Mutex::new(held)), Arc::new(AtomicUsize::new(0)));
        let counted = calls.clone();
        let look_up = move |name: &str, _: u16| {
            if name == "hangs" {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = held.lock().expect("nobody panics").recv();
            }
            Ok(Vec::new())
        };
        let mut helpers = Helpers::start_with(waker, look_up).expect("threads");
        let key = |n| ServerKey::from_parts(n, 0);
        (0..100).for_each(|n| helpers.resolve("hangs".to_owned(), 5432, key(n)));
        helpers.resolve("quick".to_owned(), 5432, key(100));
        assert_eq!(answers(&mut helpers, 1), [key(100)]);
        drop(release);
        let all: Vec<ServerKey> = (0..100).map(key).collect();
        assert_eq!(answers(&mut helpers, 100), all);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    fn answers(helpers: &mut Helpers, count: usize) -> Vec<ServerKey> {
        let (mut events, begin) = (Vec::new(), Instant::now());
        while events.len() < count && begin.elapsed() < Duration::from_secs(20) {
            helpers.drain(&mut events);
            thread::yield_now();
        }
        let key = |event| match event {
            Event::Resolved { key, .. } => Some(key),
            _ => None,
        };
        events.into_iter().filter_map(key).collect()
    }
}
