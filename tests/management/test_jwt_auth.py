import base64
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from flambeau.management.errors import Forbidden, TokenRefused
from flambeau.management.jwt_auth import Bearer, JwtOptions, UnusableKey, Verifier, model_in

SECRET = "a secret of thirty-two bytes, or more"
NOW = int(time.time())
CLAIMS = {"team_id": "t", "token_id": "debug-test"}


def sign(claims=CLAIMS, key=SECRET, algorithm="HS256", **headers):
    return "Bearer " + jwt.encode(claims, key, algorithm=algorithm, headers=headers or None)


@pytest.fixture
def verifier():
    return Verifier(JwtOptions(), SECRET)


@pytest.fixture(scope="module")
def signing_keys():
    return {
        "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ed": ed25519.Ed25519PrivateKey.generate(),
    }


def jwks(folder, **keys):
    path = folder / "jwks.json"
    found = []
    for kid, key in keys.items():
        kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.OKPAlgorithm
        found.append(kind.to_jwk(key.public_key(), as_dict=True) | {"kid": kid})
    path.write_text(json.dumps({"keys": found}))
    return path


@pytest.mark.parametrize(
    "claims",
    [CLAIMS, {}, {"exp": NOW + 36000}, {"iat": NOW - 10, "nbf": NOW - 10}],
    ids=["plain", "no claims at all", "expires later", "issued earlier"],
)
def test_a_good_token_is_let_through(verifier, claims):
    assert dict(verifier.check(sign(claims)).claims) == claims


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer"])
def test_the_scheme_may_have_any_case(verifier, scheme):
    verifier.check(scheme + " " + sign().split()[1])


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param("Bearer", id="no token"),
        pytest.param("Bearer  " + sign().split()[1], id="two blanks"),
        pytest.param("Basic " + sign().split()[1], id="another scheme"),
        pytest.param(sign().split()[1], id="no scheme"),
        pytest.param("Bearer abc.def.ghi", id="no token at all"),
        pytest.param("Bearer \xe9.\xff.x", id="bytes that are no letters"),
        pytest.param(sign(key=SECRET + "x"), id="another secret"),
        pytest.param(sign({"exp": NOW - 60}), id="expired"),
        pytest.param(sign({"nbf": NOW + 36000}), id="not yet valid"),
        pytest.param(sign({"aud": "somebody else"}), id="meant for somebody else"),
        pytest.param(sign(key=SECRET * 2, algorithm="HS512"), id="another algorithm"),
        pytest.param(sign(key=None, algorithm="none"), id="no algorithm"),
        pytest.param(sign(crit=["b64"], b64=False), id="a critical extension"),
        pytest.param(sign({"filler": "x" * 8192}), id="a token of great length"),
        pytest.param("Bearer " + "W1tb" * 1500 + ".e30.AA", id="a head nested deeply"),
    ],
)
def test_any_other_is_refused_without_a_word_of_the_secret(verifier, header):
    with pytest.raises(TokenRefused) as refused:
        verifier.check(header)

    assert SECRET not in str(refused.value)


def test_claims_can_be_required(verifier):
    strict = Verifier(JwtOptions(required_claims=["exp", "sub"], audience="here", issuer="us"), SECRET)
    good = {"exp": NOW + 36000, "sub": "me", "aud": "here", "iss": "us"}

    strict.check(sign(good))
    for missing in good:
        with pytest.raises(TokenRefused):
            strict.check(sign({name: value for name, value in good.items() if name != missing}))


def test_a_short_secret_is_refused():
    with pytest.raises(UnusableKey, match="fewer than 32"):
        Verifier(JwtOptions(), "short")


def test_public_keys_are_chosen_by_their_id(tmp_path, signing_keys):
    verifier = Verifier(JwtOptions(jwks_file=str(jwks(tmp_path, **signing_keys))))

    verifier.check(sign(key=signing_keys["rsa"], algorithm="RS256", kid="rsa"))
    verifier.check(sign(key=signing_keys["ed"], algorithm="EdDSA", kid="ed"))
    for wrong in ("ed", "other", None):
        with pytest.raises(TokenRefused):
            verifier.check(sign(key=signing_keys["rsa"], algorithm="RS256", **({"kid": wrong} if wrong else {})))


def test_a_public_key_is_no_shared_secret(tmp_path, signing_keys):
    path = jwks(tmp_path, rsa=signing_keys["rsa"])
    verifier = Verifier(JwtOptions(jwks_file=str(path)))
    known_to_all = signing_keys["rsa"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (b'{"alg": "HS256", "kid": "rsa"}', b"{}"))
    signature = base64.urlsafe_b64encode(hmac.digest(known_to_all, signed, "sha256")).rstrip(b"=")

    with pytest.raises(TokenRefused):
        verifier.check(f"Bearer {signed.decode()}.{signature.decode()}")


def test_replaced_keys_are_taken_and_broken_ones_are_not(tmp_path, signing_keys, monkeypatch):
    monkeypatch.setattr("flambeau.management.jwt_auth.LOOK_SECONDS", 0)
    verifier = Verifier(JwtOptions(jwks_file=str(jwks(tmp_path, old=signing_keys["rsa"]))))
    new = sign(key=signing_keys["ed"], algorithm="EdDSA", kid="new")

    with pytest.raises(TokenRefused):
        verifier.check(new)
    jwks(tmp_path, new=signing_keys["ed"])
    verifier.check(new)
    (tmp_path / "jwks.json").write_text("{")
    verifier.check(new)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param('{"keys": []}', "no", id="no key"),
        pytest.param("[]", "no JSON web key set", id="no set"),
        pytest.param('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}', "oct", id="a shared secret"),
    ],
)
def test_unusable_keys_stop_the_start(tmp_path, text, complaint):
    path = tmp_path / "jwks.json"
    path.write_text(text)

    with pytest.raises(UnusableKey, match=complaint):
        Verifier(JwtOptions(jwks_file=str(path)))


def test_keys_on_other_curves_are_refused(tmp_path):
    key = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [key]}))

    with pytest.raises(UnusableKey, match="RS256 and EdDSA"):
        Verifier(JwtOptions(jwks_file=str(tmp_path / "jwks.json")))


@pytest.mark.parametrize(
    ("claims", "role", "model", "allowed"),
    [
        ({}, "inference", "any", True),
        ({}, "management", None, False),
        ({"roles": "management"}, "management", None, True),
        ({"roles": ["management"]}, "inference", None, False),
        ({"roles": ["admin"]}, "management", None, True),
        ({"roles": {"admin": 1}}, "inference", None, False),
        ({"models": ["llama-*"]}, "inference", "llama-2", True),
        ({"models": ["llama-*"]}, "inference", "falcon", False),
        ({"models": []}, "inference", "falcon", False),
    ],
)
def test_what_a_bearer_may_do(claims, role, model, allowed):
    bearer = Bearer(claims)

    if allowed:
        bearer.require(role, model)
    else:
        with pytest.raises(Forbidden):
            bearer.require(role, model)


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (b"/predictions/a/1.0", "a"),
        (b"/inference/a%20b", "a b"),
        (b"/chat/a", "a"),
        (b"/v1/models/a:predict", "a"),
        (b"/v2/models/a/infer", "a"),
        (b"/v1/chat/completions", None),
        (b"/inference%2Fa", None),
    ],
)
def test_the_model_is_in_the_path(path, model):
    assert model_in(path) == model
