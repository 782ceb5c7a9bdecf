//! What may block or take long, off the loop: looking up names, and PBKDF2.
//!
//! Two threads, one for each, so that a stuck resolver holds up no login. Answers come back as [`Event`]s.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use mio::Waker;

use crate::arena::ServerKey;
use crate::auth::{KeyDerivation, SaltedPassword};
use crate::engine::{Event, Who};

/// How long an answer serves those who ask the same.
const FRESH: Duration = Duration::from_millis(500);

/// A name to look up.
struct Question {
    name: String,
    port: u16,
    key: ServerKey,
}

enum Answer {
    Resolved(ServerKey, Found),
    Derived(Who, SaltedPassword),
}

/// The threads, and the way to and from them.
pub(super) struct Helpers {
    questions: Sender<Question>,
    jobs: Sender<(KeyDerivation, Who)>,
    answers: Receiver<Answer>,
}

impl Helpers {
    pub(super) fn start(waker: Waker) -> io::Result<Helpers> {
        let waker = Arc::new(waker);
        let (questions, asked) = mpsc::channel();
        let (jobs, given) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let (to, wake) = (answer.clone(), waker.clone());
        thread::Builder::new()
            .name("resolver".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                let mut last = LastAnswer::default();
                work(&asked, &to, &wake, |Question { name, port, key }| {
                    Answer::Resolved(key, last.look_up(&name, port))
                });
            })?;
        thread::Builder::new()
            .name("keys".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || {
                work(
                    &given,
                    &answer,
                    &waker,
                    |(job, who): (KeyDerivation, Who)| Answer::Derived(who, job.run()),
                );
            })?;
        Ok(Helpers {
            questions,
            jobs,
            answers,
        })
    }

    pub(super) fn resolve(&self, name: String, port: u16, key: ServerKey) {
        let _ = self.questions.send(Question { name, port, key });
    }

    pub(super) fn derive(&self, job: KeyDerivation, who: Who) {
        let _ = self.jobs.send((job, who));
    }

    /// Takes what is ready.
    pub(super) fn drain(&self, events: &mut Vec<Event>) {
        events.extend(self.answers.try_iter().map(|answer| match answer {
            Answer::Resolved(key, result) => Event::Resolved { key, result },
            Answer::Derived(who, salted) => Event::Derived { who, salted },
        }));
    }
}

fn work<T>(
    from: &Receiver<T>,
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
    fn look_up(&mut self, name: &str, port: u16) -> Found {
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

fn look_up(name: &str, port: u16) -> Found {
    let found = (name, port)
        .to_socket_addrs()
        .map_err(|error| format!("could not translate host name \"{name}\": {error}"))?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.dedup();
    Ok(addresses)
}
