//! What a server has to show before it gets anything out of us: libpq's rules for `require_auth`, `channel_binding` and
//! `sslcertmode`, and its words.

use super::scram::{Binding, MECHANISM, MECHANISM_PLUS};
use crate::config::{ChannelBinding, Demands};
use crate::tls::OwnCertificate;
use crate::wire::backend::Authentication;
use crate::wire::refusal::{Blame, Refusal};

/// What is asked of a server, and over what it is spoken to.
#[derive(Clone, Debug)]
pub struct Terms {
    /// What is configured.
    pub demands: Demands,
    /// Iterations that it may ask for.
    pub iterations_max: u32,
    /// What carries the login.
    pub channel: Channel,
    /// What became of our certificate, where the server must have it; `None`: it need not.
    pub own_certificate: Option<OwnCertificate>,
}

/// What carries a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// No TLS.
    Plain,
    /// TLS with a certificate for which RFC 5929 defines no channel binding (Ed25519).
    Unbindable,
    /// TLS, and its `tls-server-end-point`.
    Bindable(Vec<u8>),
}

impl Terms {
    /// Looks at the first thing that a server asks for, or at its asking for nothing.
    ///
    /// # Errors
    /// 28000: it may not, or it has not shown what it has to.
    pub(super) fn permit(&self, request: &Authentication<'_>) -> Result<(), Refusal> {
        match self.own_certificate {
            Some(OwnCertificate::NotAsked) => {
                let text = "server did not request an SSL certificate";
                return Err(refused("sslcertmode", text));
            }
            Some(OwnCertificate::NotSent) => {
                let text = "server accepted connection without a valid SSL certificate";
                return Err(refused("sslcertmode", text));
            }
            Some(OwnCertificate::Sent) | None => {}
        }
        self.permit_method(request)?;
        if self.demands.channel_binding != ChannelBinding::Require {
            return Ok(());
        }
        let text = match request {
            Authentication::Sasl(_) if self.channel == Channel::Plain => {
                "channel binding required, but SSL not in use"
            }
            Authentication::Sasl(_) => return Ok(()),
            Authentication::Ok => {
                "channel binding required, but server authenticated client without channel binding"
            }
            _ => "channel binding required but not supported by server's authentication request",
        };
        Err(refused("channel_binding", text))
    }

    fn permit_method(&self, request: &Authentication<'_>) -> Result<(), Refusal> {
        let Some(required) = &self.demands.require_auth else {
            return Ok(());
        };
        let (allowed, reason) = match request {
            Authentication::Ok => (
                required.allows_none(),
                "server did not complete authentication (method none)",
            ),
            Authentication::CleartextPassword => (
                required.allows("password"),
                "server requested a cleartext password (method password)",
            ),
            Authentication::Md5Password(_) => (
                required.allows("md5"),
                "server requested a hashed password (method md5)",
            ),
            Authentication::Sasl(_) => (
                required.allows("scram-sha-256"),
                "server requested SASL authentication (method scram-sha-256)",
            ),
            _ => (false, "server requested an unknown authentication type"),
        };
        if allowed {
            return Ok(());
        }
        let text = format!(
            "authentication method requirement \"{}\" failed: {reason}",
            required.as_str()
        );
        Err(refused("require_auth", text))
    }

    /// Picks the mechanism among those that a server offers, and how it is bound.
    pub(super) fn choose(&self, offered: &[u8]) -> Result<Binding, Refusal> {
        let offers = |wanted| {
            offered
                .split(|&byte| byte == 0)
                .any(|mechanism| mechanism == wanted)
        };
        let wanted = self.demands.channel_binding;
        match (&self.channel, offers(MECHANISM_PLUS)) {
            (Channel::Plain, true) => Err(unfit(
                "server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection",
            )),
            (Channel::Bindable(endpoint), true) if wanted != ChannelBinding::Disable => {
                Ok(Binding::endpoint(endpoint))
            }
            (Channel::Unbindable, _) if wanted == ChannelBinding::Require => {
                let text = "channel binding is required, but none is defined for the signature algorithm of the server's certificate";
                Err(refused("channel_binding", text))
            }
            (_, _) if wanted == ChannelBinding::Require => {
                let text = "channel binding is required, but server did not offer an authentication method that supports channel binding";
                Err(refused("channel_binding", text))
            }
            _ if !offers(MECHANISM) => Err(unfit(
                "none of the server's SASL authentication mechanisms are supported",
            )),
            // Had it been there, it would have been taken: somebody may have removed it on the way, which the server finds out.
            (Channel::Bindable(_), false) if wanted != ChannelBinding::Disable => {
                Ok(Binding::UNOFFERED)
            }
            _ => Ok(Binding::NONE),
        }
    }
}

fn unfit(text: &str) -> Refusal {
    Refusal::fatal(b"28000", text, Blame::Server)
}

fn refused(key: &str, text: impl Into<String>) -> Refusal {
    Refusal::fatal(b"28000", text, Blame::Server).hint(format!(
        "{key} in the pool's dsn or backend asks for that; the server got nothing."
    ))
}
