"""Places a call to a person whose agent is the pipecat bot, lets her speak, and compares what both heard, sample for sample.

Works on a running `cargo dev`, whose dev.json it is given, with the folder of the bot and the program grpcurl.
"""

import io
import json
import math
import struct
import subprocess
import sys
import time
import urllib.request
import wave
from pathlib import Path

dev, folder, url, grpcurl = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
simulator = dev["addresses"]["simulator"]
PERSON = "+919812340077"
RATE = 8000
# Two seconds of two tones that repeat only after a long time, so that a shift would be seen.
SAID = [int(9000 * math.sin(n * n / 90000) + 4000 * math.sin(n / 3)) or 1 for n in range(2 * RATE)]


def rpc(method, request):
    command = [grpcurl, "-plaintext", "-max-time", "60", "-H", f"authorization: Bearer {dev['api_key']}"]
    address = dev["addresses"]["call_service"]
    done = subprocess.run([*command, "-d", json.dumps(request), address, f"callbridge.{method}"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{method}: {done.stderr}")
    return json.loads(done.stdout)


def control(path, method="GET", body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{simulator}/control/{path}", data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=90) as answer:
        return answer.read()


def samples(pcm):
    return list(struct.unpack(f"<{len(pcm) // 2}h", pcm[: len(pcm) // 2 * 2]))


def audio(sid, side):
    with wave.open(io.BytesIO(control(f"calls/{sid}/audio/{side}"))) as file:
        return samples(file.readframes(file.getnframes()))


def find(part, whole):
    """Where the part begins in the whole."""
    first, size = part[0], len(part)
    for at in range(len(whole) - size + 1):
        if whole[at] == first and whole[at : at + size] == part:
            return at
    return None


def check(holds, what):
    print(f"pipecat: {'ok ' if holds else 'BAD'} {what}")
    if not holds:
        sys.exit(1)


with wave.open(str(folder / "said.wav"), "wb") as file:
    file.setparams((1, 2, RATE, 0, "NONE", ""))
    file.writeframes(struct.pack(f"<{len(SAID)}h", *SAID))

agent = rpc("directory.v1.AgentService/CreateAgent", {"name": "pipecat", "endpoints": [f"{url}?tenant=acme"]})["agent"]["id"]
# The first silence lets the pipeline start; the last lets the echo come back.
steps = [{"silence": 1500}, {"speak": {"file": str(folder.resolve() / "said.wav")}}, {"silence": 3000}, {"press": "5"}, {"silence": 300}, "hang_up"]
control(f"outcomes/{PERSON}", "PUT", {"answer": "accepted", "callee": "answers", "caller": {"steps": steps}})
request = {"idempotency_key": f"pipecat-{time.time()}", "to": PERSON, "phone_id": dev["phone_id"], "agent_id": agent, "wait_for": "WAIT_FOR_ENDED"}
call = rpc("call.v1.CallService/PlaceCall", request)["call"]
sid = call["exotelCallSid"]
report = json.loads(control(f"calls/{sid}/wait?phase=ended&timeout_ms=60000"))

start = json.loads((folder / "start.json").read_text())
check(start["kind"] == "exotel", f"pipecat takes us for Exotel ({start['kind']})")
told = start["call"]
check(told["call_id"] == sid and told["from"] == PERSON and told["to"] == dev["phone_number"], "it is told Exotel's id and both numbers")
check("tenant" not in start["url"] and told.get("custom_parameters", {}).get("tenant") == "acme", "and the URL's query as Exotel does")
heard = samples((folder / "heard.pcm").read_bytes())
check(heard == audio(sid, "said")[: len(heard)], "it heard exactly what Exotel sent, from the first sample on")
check(find(SAID, heard) is not None, "and in it what the person said")
check(find(SAID, audio(sid, "received")) is not None, "she was sent her own words back, sample for sample")
check(find(SAID, audio(sid, "heard")) is not None, "and heard them without a gap")
check(call["state"] == "CALL_STATE_COMPLETED" and report["streams"][0]["invalid_messages"] == 0, "the call ended well")
for _ in range(100):
    if (folder / "ended").exists():
        break
    time.sleep(0.1)
check((folder / "ended").exists(), "the pipeline ended with the call")
