//! `aether top`: the console of a running Aether as a screen that refreshes. A client like any other: what it shows is what SHOW
//! tells, and it needs nothing of the process that it looks at but a login to the console.
//!
//! [`options`] says where that is, [`passfile`] and [`certificate`] how one gets in, [`link`] asks, [`sample`] makes numbers of the
//! answers, [`view`] is what keys have chosen, [`frame`] and [`table`] make lines of both, and [`terminal`] has the screen. A thread
//! asks, so that keys are answered while the console is not.

mod certificate;
mod frame;
mod link;
mod options;
mod passfile;
mod sample;
mod table;
mod terminal;
mod view;

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use nix::unistd::{User, geteuid};

use crate::config::Secret;
use frame::Scene;
use link::{Failure, Link};
pub use options::{Asked, Options, USAGE, read};
use options::{Surroundings, Target};
use sample::Sample;
use terminal::{Came, Screen};
use view::{Choice, Effect, View};

/// How long after a failure the next connection is tried.
const RETRY: Duration = Duration::from_secs(1);

/// Looks, until somebody has seen enough.
///
/// # Errors
/// Why there is nothing to look at.
pub fn run(options: &Options) -> Result<(), String> {
    let user = User::from_uid(geteuid()).ok().flatten();
    let user = user.map_or_else(|| geteuid().to_string(), |user| user.name);
    let outside = Surroundings {
        variable: &|name| std::env::var(name).ok(),
        user: &user,
        owns: &|path: &Path| {
            std::fs::metadata(path).is_ok_and(|file| file.uid() == geteuid().as_raw())
        },
    };
    let target = options.target(&outside)?;
    let (mut password, file) = given_password(&target);
    let mut link = Link::open(&target, password.as_ref());
    if let Err(Failure::PasswordWanted) = link {
        let prompt = format!("Password for user {}: ", target.user);
        let typed = terminal::ask_password(&prompt).map_err(|_| {
            "the console asks for a password: set PGPASSWORD or write a line into ~/.pgpass, there is no terminal to ask at"
                .to_owned()
        })?;
        password = Some(Secret::new(typed.as_bytes()));
        link = Link::open(&target, password.as_ref());
    }
    let link = link.map_err(|failure| match (in_words(failure), file) {
        (text, Some(file)) if text.contains("password authentication failed") => {
            format!(
                "{text}\npassword retrieved from file \"{}\"",
                file.display()
            )
        }
        (text, _) => text,
    })?;
    if options.once || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return once(options, &target, link);
    }
    let broken = |error: io::Error| format!("the terminal has failed: {error}");
    // Before there is a second thread.
    let screen = Screen::enter(std::env::var_os("NO_COLOR").is_none()).map_err(broken)?;
    watch(options, target, password, link, &screen).map_err(broken)
}

/// The password that is there before anybody is asked for it, and the file that it is from, if it is from one.
fn given_password(target: &Target) -> (Option<Secret>, Option<&Path>) {
    let variable = std::env::var("PGPASSWORD").ok();
    if let Some(text) = variable.filter(|text| !text.is_empty()) {
        return (Some(Secret::new(text.into_bytes())), None);
    }
    let Some(file) = target.passfile.as_deref() else {
        return (None, None);
    };
    match passfile::password(file, target) {
        Ok(Some(password)) => (Some(password), Some(file)),
        Ok(None) => (None, None),
        Err(text) => {
            eprintln!("aether top: WARNING: {text}");
            (None, None)
        }
    }
}

fn in_words(failure: Failure) -> String {
    match failure {
        Failure::PasswordWanted => "the console asks for a password".to_owned(),
        Failure::Other(text) => text,
    }
}

fn title(target: &Target, version: &str) -> String {
    format!("{version} at {} as {}", target.address, target.user)
}

/// What SHOW VERSION says.
fn version(link: &mut Link) -> Result<String, Failure> {
    let answer = link.ask("SHOW VERSION")?;
    let first = answer.rows.into_iter().flatten().flatten().next();
    Ok(first.unwrap_or_default())
}

/// Asks for all that a view shows.
fn sample(link: &mut Link, view: Option<View>, begin: Instant) -> Result<Sample, Failure> {
    let at_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    let mut sample = Sample {
        at_us,
        ..Sample::default()
    };
    for command in sample::commands(view) {
        sample.take(&command, &link.ask(&command)?);
    }
    Ok(sample)
}

/// One picture, as text.
fn once(options: &Options, target: &Target, mut link: Link) -> Result<(), String> {
    let begin = Instant::now();
    let version = version(&mut link).map_err(in_words)?;
    let before = sample(&mut link, None, begin).map_err(in_words)?;
    std::thread::sleep(options.interval);
    let now = sample(&mut link, None, begin).map_err(in_words)?;
    let choice = Choice::new(options.interval);
    let scene = Scene {
        title: &title(target, &version),
        now: Some(&now),
        before: Some(&before),
        trouble: None,
        choice: &choice,
    };
    let lines: Vec<String> = frame::report(&scene)
        .iter()
        .map(table::Line::plain)
        .collect();
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", lines.join("\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// What the thread that asks has to tell.
enum News {
    Version(String),
    Sample(Box<Sample>),
    Trouble(String),
}

/// What it is told.
#[derive(Clone, Copy)]
struct Order {
    view: View,
    interval: Duration,
    frozen: bool,
}

/// The thread that asks.
struct Asker {
    target: Target,
    password: Option<Secret>,
    orders: Receiver<Order>,
    news: Sender<News>,
    /// A byte in here wakes the other thread.
    bell: UnixStream,
}

impl Asker {
    fn run(mut self, first: Link, mut order: Order) {
        let begin = Instant::now();
        let mut link = Some(first);
        let mut is_new = true;
        loop {
            if !order.frozen {
                let asked = self.ask(&mut link, &mut is_new, order.view, begin);
                let failed = asked.err().map(in_words);
                let wait = match failed {
                    None => order.interval,
                    Some(text) => {
                        (link, is_new) = (None, true);
                        if !self.tell(News::Trouble(format!("{text}; trying again"))) {
                            return;
                        }
                        RETRY
                    }
                };
                match self.orders.recv_timeout(wait) {
                    Ok(new) => order = new,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                match self.orders.recv() {
                    Ok(new) => order = new,
                    Err(_) => return,
                }
            }
            // Only the last one counts.
            while let Ok(newer) = self.orders.try_recv() {
                order = newer;
            }
        }
    }

    fn ask(
        &mut self,
        link: &mut Option<Link>,
        is_new: &mut bool,
        view: View,
        begin: Instant,
    ) -> Result<(), Failure> {
        let open = match link {
            Some(open) => open,
            None => link.insert(Link::open(&self.target, self.password.as_ref())?),
        };
        if *is_new {
            let version = version(open)?;
            *is_new = false;
            self.tell(News::Version(version));
        }
        let sample = sample(open, Some(view), begin)?;
        self.tell(News::Sample(Box::new(sample)));
        Ok(())
    }

    /// Whether anybody is there to hear it.
    fn tell(&mut self, news: News) -> bool {
        self.news.send(news).is_ok() && self.bell.write_all(&[0]).is_ok()
    }
}

/// The loop of the screen.
fn watch(
    options: &Options,
    target: Target,
    password: Option<Secret>,
    link: Link,
    screen: &Screen,
) -> io::Result<()> {
    let mut choice = Choice::new(options.interval);
    let order = |choice: &Choice| Order {
        view: choice.view,
        interval: choice.interval,
        frozen: choice.frozen,
    };
    let (bell, rings) = UnixStream::pair()?;
    rings.set_nonblocking(true)?;
    let (orders, inbox) = mpsc::channel();
    let (sender, news) = mpsc::channel();
    let mut headline = title(&target, "Aether");
    let of_version = target.clone();
    let asker = Asker {
        target,
        password,
        orders: inbox,
        news: sender,
        bell,
    };
    let first = order(&choice);
    std::thread::Builder::new()
        .name("console".to_owned())
        .spawn(move || asker.run(link, first))?;
    let (mut now, mut before): (Option<Sample>, Option<Sample>) = (None, None);
    let mut trouble: Option<String> = None;
    loop {
        let (_, height) = screen.size();
        let scene = Scene {
            title: &headline,
            now: now.as_ref(),
            before: before.as_ref(),
            trouble: trouble.as_deref(),
            choice: &choice,
        };
        let scrolled = choice.scrolled.min(frame::scroll_max(&scene, height));
        screen.draw(&frame::screen(&scene, height))?;
        choice.scrolled = scrolled;
        match screen.wait(Duration::from_secs(60), rings.as_fd())? {
            Came::End => return Ok(()),
            Came::Suspend => screen.suspend()?,
            Came::Keys(bytes) => {
                for key in view::keys(&bytes) {
                    let columns = frame::columns(choice.view).len();
                    match choice.press(key, frame::page(height), columns) {
                        Effect::Quit => return Ok(()),
                        Effect::Suspend => screen.suspend()?,
                        Effect::Ask => _ = orders.send(order(&choice)),
                        Effect::Redraw => {}
                    }
                }
            }
            Came::News => {
                let _ = (&rings).read(&mut [0; 256]);
                while let Ok(one) = news.try_recv() {
                    match one {
                        News::Version(version) => headline = title(&of_version, &version),
                        News::Trouble(text) => trouble = Some(text),
                        News::Sample(sample) => {
                            trouble = None;
                            // One that came early, as for another view: over so short a time rates say nothing.
                            let early = now.as_ref().is_some_and(|now| {
                                let since = sample.at_us.saturating_sub(now.at_us);
                                Duration::from_micros(since) < choice.interval / 2
                            });
                            let last = now.replace(*sample);
                            if !early || before.is_none() {
                                before = last;
                            }
                        }
                    }
                }
            }
            Came::Resized | Came::Nothing => {}
        }
    }
}
