"""The published test vectors of the four Noise protocols that mproxy speaks, handshake and packets behind it.

They are those of cacophony, of the Noise project's wiki ("Test vectors"), as kept in the repository of snow
(mcginty/snow, tests/vectors/cacophony.txt): payloads, keys and ciphertexts are copied, in hexadecimal.
"""

import pytest
from tests.drivers._datagram import DrivenKey

from mproxy.ground._curves import X25519Key
from mproxy.transport._seal import Cipher
from mproxy.transport.noise import CipherState, Handshake

PROLOGUE = bytes.fromhex("4a6f686e2047616c74")
PSK = bytes.fromhex("54686973206973206d7920417573747269616e20706572737065637469766521")
STATICS = [bytes.fromhex("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"),
           bytes.fromhex("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893")]
EPHEMERALS = [bytes.fromhex("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"),
              bytes.fromhex("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b")]
PAYLOADS = [bytes.fromhex(text) for text in (
    "4c756477696720766f6e204d69736573", "4d757272617920526f746862617264", "462e20412e20486179656b",
    "4361726c204d656e676572", "4a65616e2d426170746973746520536179", "457567656e2042f6686d20766f6e2042617765726b")]

# Protocol: (handshake hash as it stands before the last handshake message, ciphertexts of the payloads in turns, of
# which the initiator writes the first).
VECTORS = {
    "Noise_NNpsk0_25519_AESGCM_SHA256": (
        "29d92c13649b5d28b41afd8dc5d6ce7f46df2348e4061c09f1c354b593e13add", (
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944"
            "7c37a89fc17813788d30df2d59501d6066f5f8aecc3406bbd9829f2d24a531b1",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843"
            "2f29d79368ef9de4e1ae7a362fb05bf0ad668e026bf5714554497b3a720461",
            "7c01e898a6201f36aecee532e29cd0b7f8ffa29d3366ad0dce39a6",
            "a9ff535aace3db6a1da1a7fb00fe2de2622bb373abad9fb42c00e0",
            "6cfc49a3e65472edc2d0152abe5ce950170a8a47c959f30bd48b5f0aacf29adbfd",
            "9bc86e6d974ed21ba04604a94aa68de21677eb409ead070c0cd569b069ee19ba142aa4c1a9")),
    "Noise_NNpsk0_25519_ChaChaPoly_SHA256": (
        "054a32eaeedc4061a64cec028e34e5775d4de033e32525a5dfbd719056bae0b6", (
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944"
            "79b962b8aff8485742ac32f905ba45369e2465fb59e138a93d67a0d1266b6a54",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843"
            "d6062704d5a9c422a8e834423f8c1feada7e8d0d910a1a2cd030fb584221e3",
            "e632c3763d7669067383433197a3baddf146e9e70ad4b4e9e59e0f",
            "64c6bee32ea91c8474bb4c21d7a700109ad45af77b29764ba5eb1e",
            "e2fa0bed0603b62d3ccac2ecabbf3fe33f3e86514909b323361626266cb2471cc8",
            "0c01dc9cec1fe4ddd692e8dd32188aa351088dc91183639a53b57aa4692b5ebdef8b8ca111")),
    "Noise_XX_25519_AESGCM_SHA256": (
        "c7c118c30ea6b4b4fb8b576a2a29da04bbbb63e2b3a8430856a2a6d58f5953ad", (
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944"
            "4c756477696720766f6e204d69736573",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843"
            "757117acceb05bd7a45733bc22015c97a9d0cbaf41b80446d5988ff5127235d7"
            "6b79eade70f473d6a4ef521fdcbeda5340d01e028ba793fc059f2724a83af05f"
            "12dda0448a7621a926b379a92477fd",
            "c90f1cf77eba4e50edb038991565e36c9758943a989229b6051244dc4fbecb69"
            "46744b401af2ee1a5881b65fbb87fd07cb6a328ececc9ce6ce84c399dc332d4f"
            "d521fa4bb7f467ce909395",
            "bc3fa77f6aca3e8466d7dc6bea10013e88a6a29add5132b461806c",
            "250b01074cdfe0df2ecf8ccbf1737b15a2ddb5b52fd9a396604e9c793cee3b3bb9",
            "449d4d433b3cdc3d02bf6fc881774b9df54366ebcffb9689bb13f14709822cd7ef42bcdb4d")),
    "Noise_XX_25519_ChaChaPoly_SHA256": (
        "e37b138ecd936a2b3c3532fb2cc499bdee2746dbfc19e9490964c79fd14bd88b", (
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944"
            "4c756477696720766f6e204d69736573",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843"
            "81cbad1f276e038c48378ffce2b65285e08d6b68aaa3629a5a8639392490e5b9"
            "bd5269c2f1e4f488ed8831161f19b7815528f8982ffe09be9b5c412f8a0db50f"
            "8814c7194e83f23dbd8d162c9326ad",
            "c7195ffacac1307ff99046f219750fc47693e23c3cb08b89c2af808b444850a8"
            "0ae475b9df0f169ae80a89be0865b57f58c9fea0d4ec82a286427402f113e4b6"
            "ae769a1d95941d49b25030",
            "96763ed773f8e47bb3712f0e29b3060ffc956ffc146cee53d5e1df",
            "3e40f15f6f3a46ae446b253bf8b1d9ffb6ed9b174d272328ff91a7e2e5c79c07f5",
            "eb3f3515110702e047a6c9da4478b6ead94873c11c0f2d710ddb3f09fce024b3a58502ae3f")),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name):
    """Each message is as published and is read by the other side; then packets with the keys, sealed by libcrypto."""
    expected_hash, texts = VECTORS[name]
    texts = [bytes.fromhex(text) for text in texts]
    sides = [Handshake(name, side == 0, PROLOGUE, ephemeral=X25519Key(EPHEMERALS[side]),
                       **({"static": X25519Key(STATICS[side])} if "XX" in name else {"psk": PSK})) for side in (0, 1)]
    messages = 3 if "XX" in name else 2
    for number in range(messages):
        writer, reader = sides[number % 2], sides[1 - number % 2]
        if number == messages - 1:
            assert sides[0].hash == sides[1].hash == bytes.fromhex(expected_hash)
        assert writer.write(PAYLOADS[number]) == texts[number], number
        assert reader.read(texts[number]) == PAYLOADS[number], number
    assert sides[0].hash == sides[1].hash
    cipher_name = name.split("_")[3]
    for side in (0, 1):
        sending, receiving = sides[side].keys()
        state = CipherState(cipher_name)
        state.initialize_key(sending)
        cipher = Cipher.AESGCM if cipher_name == "AESGCM" else Cipher.CHACHAPOLY
        packets = DrivenKey(sending, int(cipher), 0, True)
        opening = DrivenKey(sides[1 - side].keys()[1], int(cipher), 0, False)
        own = [number for number in range(messages, len(texts)) if number % 2 == side]
        for nonce, number in enumerate(own):
            assert state.encrypt(b"", PAYLOADS[number]) == texts[number], number
            assert packets.seal(nonce, b"", PAYLOADS[number]) == texts[number], number
            assert opening.open(nonce, b"", texts[number]) == PAYLOADS[number], number
        assert receiving == sides[1 - side].keys()[0]
