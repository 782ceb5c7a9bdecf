#!/bin/sh
# Makes the certificates of the tests anew, with openssl 3, valid for a hundred years but where the name says otherwise.
# They are in the tree so that the tests need nobody to make them, and the simulation has the same bytes every time.
set -eu
cd "$(dirname "$0")"
days=36500
quiet() { "$@" 2>/dev/null; }
request() { quiet openssl req -new -nodes -subj "$3" -newkey "${4:-rsa:2048}" -keyout "$1.key" -out "$1.csr" ${2:+-addext "$2"}; }
sign() { # name, issuer, extensions (none: version 1)
    if [ -n "${3:-}" ]; then
        printf '%b' "$3" > ext
        quiet openssl x509 -req -in "$1.csr" -days $days -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -extfile ext -out "$1.crt"
    else
        quiet openssl x509 -req -in "$1.csr" -days $days -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -out "$1.crt"
    fi
}
ca='basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n'
end='basicConstraints=CA:FALSE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n'

for root in root rogue; do
    quiet openssl req -x509 -new -nodes -days $days -subj "/CN=$root" -newkey rsa:2048 -keyout $root.key -out $root.crt \
        -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign,cRLSign'
done
request between '' /CN=between; sign between root "$ca"
request server '' '/CN=server'; sign server root "${end}subjectAltName=DNS:localhost,IP:127.0.0.1\n"
request chained '' /CN=localhost; sign chained between "${end}subjectAltName=DNS:localhost\n"
cat between.crt >> chained.crt
request common_name '' /CN=localhost; sign common_name root "$end"
request version_1 '' /CN=localhost; sign version_1 root
request other_host '' /CN=localhost; sign other_host root "${end}subjectAltName=DNS:db.example.com\n"
request client '' /CN=username; sign client root "$end"
# A subject that needs all of the escapes, and what openssl makes of it.
cat > subject.conf <<C
[req]
prompt = no
utf8 = yes
string_mask = utf8only
distinguished_name = d
[d]
C = DE
0.O = "Aether, Ltd; <a+b>"
OU = "\\#Zürich"
0.CN = username
+serialNumber = 42
1.CN = "stranger"
emailAddress = me@example.com
0.2.5.4.120 = unknown
DC = example
C
quiet openssl req -new -nodes -config subject.conf -newkey rsa:2048 -keyout subject.key -out subject.csr; sign subject root "$end"
openssl x509 -in subject.crt -noout -subject -nameopt RFC2253 | sed 's/^subject=//' > subject.txt
rm subject.conf
request revoked '' /CN=username; sign revoked root "$end"
request stranger '' /CN=username; sign stranger rogue "$end"
# The one line of PostgreSQL's documentation.
quiet openssl req -new -x509 -days $days -nodes -subj /CN=localhost -newkey rsa:2048 -keyout self.key -out self.crt
request expired '' /CN=localhost
printf '%b' "${end}subjectAltName=DNS:localhost,IP:127.0.0.1\n" > ext
rm -rf ca && mkdir ca && touch ca/index && echo 1000 > ca/serial && echo 01 > ca/crlnumber
cat > ca/conf <<C
[ca]
default_ca = d
[d]
database = ca/index
serial = ca/serial
crlnumber = ca/crlnumber
new_certs_dir = ca
default_md = sha256
policy = p
[p]
commonName = supplied
C
quiet openssl ca -config ca/conf -batch -cert root.crt -keyfile root.key -in expired.csr -out expired.crt -notext \
    -startdate 20200101000000Z -enddate 20210101000000Z -extfile ext
quiet openssl ca -config ca/conf -batch -cert root.crt -keyfile root.key -revoke revoked.crt
quiet openssl ca -config ca/conf -batch -cert root.crt -keyfile root.key -gencrl -crldays $days -out root.crl
# Keys of all kinds and in all forms.
openssl ecparam -name prime256v1 -genkey -out sec1.key
quiet openssl req -new -x509 -days $days -key sec1.key -subj /CN=localhost -addext subjectAltName=DNS:localhost -out sec1.crt
quiet openssl genpkey -algorithm ed25519 -out ed25519.key
quiet openssl req -new -x509 -days $days -key ed25519.key -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -addext basicConstraints=critical,CA:FALSE -out ed25519.crt
# Its key's signatures have one length, its own signature is one that SCRAM can be bound to.
quiet openssl genpkey -algorithm ed25519 -out bound.key
quiet openssl req -new -key bound.key -subj /CN=localhost -out bound.csr; sign bound root "${end}subjectAltName=DNS:localhost\n"
openssl rsa -in server.key -traditional -out pkcs1.key 2>/dev/null
openssl pkcs8 -topk8 -in server.key -passout pass:x -out encrypted.key
openssl rsa -in server.key -traditional -aes128 -passout pass:x -out encrypted_old.key 2>/dev/null
openssl x509 -in server.crt -outform der -out server.der
quiet openssl ecparam -name secp521r1 -genkey -out p521.key
quiet openssl req -new -x509 -days $days -key p521.key -subj /CN=localhost -out p521.crt
openssl genrsa -out small.key 1024 2>/dev/null
quiet openssl req -new -x509 -days $days -key small.key -subj /CN=localhost -out small.crt
quiet openssl req -new -x509 -days $days -nodes -subj /CN=localhost -newkey rsa:2048 -sha384 -keyout sha384.key -out sha384.crt
quiet openssl req -new -x509 -days $days -nodes -subj /CN=localhost -newkey rsa:2048 -sha512 -sigopt rsa_padding_mode:pss -keyout pss.key -out pss.crt
rm -rf ca ext ./*.csr ./*.srl
