"""What runs inside the Redis server: the conditional write and the compare-and-set.

Lua's numbers are doubles, so an int64 is compared as two halves of 32 bits: at offset 1 of a row
stand the event time's halves, one tag byte later the created time's (`<I4i4xI4i4`: the low half is
unsigned, the high half has the sign).

How rows expire (`mode`) depends on the server: `setex` where HSETEX sets a field with its expiry,
`expire` where HPEXPIREAT can follow HSET, `key` where only whole keys expire; there the key lives
as long as its longest-lived row. An expiry is ms since 1970, empty for never.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

EXPIRY_MS_MAX = 2**46 - 1
"""The last expiry that a field can have (in Redis; the year 4199). Later ones are never."""

SETEX_MODE = b"setex"
MODES = ((b"HSETEX", SETEX_MODE), (b"HPEXPIREAT", b"expire"))
"""The command that a server must know for each mode, best first; else the mode is `key`."""
KEY_MODE = b"key"

_PUT = """
local function put(key, field, row, at, mode)
  if mode == 'setex' and at ~= '' then
    redis.call('HSETEX', key, 'PXAT', at, 'FIELDS', 1, field, row)
  elseif mode ~= 'key' then
    redis.call('HSET', key, field, row)
    if at ~= '' then redis.call('HPEXPIREAT', key, at, 'FIELDS', 1, field) end
  else
    local left = redis.call('PTTL', key)
    redis.call('HSET', key, field, row)
    if at == '' then
      redis.call('PERSIST', key)
    elseif left ~= -1 then
      local now = redis.call('TIME')
      if at - (now[1] * 1000 + now[2] / 1000) > left then redis.call('PEXPIREAT', key, at) end
    end
  end
end
"""

_WRITE = (
    _PUT
    + """
local function extend(key, field, row, at, mode)
  if mode == 'key' then
    put(key, field, row, at, mode)
  elseif at == '' then
    redis.call('HPERSIST', key, 'FIELDS', 1, field)
  else
    redis.call('HPEXPIREAT', key, at, 'GT', 'FIELDS', 1, field)
  end
end
local function compare(new, old)
  local nel, neh, ncl, nch = struct.unpack('<I4i4xI4i4', new, 2)
  local oel, oeh, ocl, och = struct.unpack('<I4i4xI4i4', old, 2)
  if neh ~= oeh then return neh - oeh end
  if nel ~= oel then return nel - oel end
  if nch ~= och then return nch - och end
  return ncl - ocl
end
local field, mode, codes, answer = ARGV[1], ARGV[2], {}, {''}
for i, key in ipairs(KEYS) do
  local row, at = ARGV[2 * i + 1], ARGV[2 * i + 2]
  local old = redis.call('HGET', key, field)
  if old == row then
    extend(key, field, row, at, mode)
    codes[i] = 's'
  else
    local order = 1
    if old and #old >= 18 then order = compare(row, old) end
    if order > 0 then
      put(key, field, row, at, mode)
      codes[i] = 'w'
    elseif order < 0 then
      codes[i] = 'o'
    else
      codes[i] = 't'
      answer[#answer + 1] = old
    end
  end
end
answer[1] = table.concat(codes)
return answer
"""
)

_REPLACE = (
    _PUT
    + """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[3] then return 0 end
if ARGV[4] == '' then return redis.call('HDEL', KEYS[1], ARGV[1]) end
put(KEYS[1], ARGV[1], ARGV[4], ARGV[5], ARGV[2])
return 1
"""
)

_SWAP = (
    _PUT
    + """
local mode, nf, codes, at = ARGV[1], tonumber(ARGV[2]), {}, 2 + ARGV[2]
for i, key in ipairs(KEYS) do
  local old, revision = redis.call('HGET', key, ARGV[3]), ''
  if old and #old >= 32 and string.byte(old, 24) == 33 then revision = string.sub(old, 25, 32) end
  codes[i] = '0'
  if revision == ARGV[at + 1] then
    for f = 1, nf do
      local value = ARGV[at + 2 + f]
      if value == '' then
        redis.call('HDEL', key, ARGV[2 + f])
      else
        put(key, ARGV[2 + f], value, ARGV[at + 2], mode)
      end
    end
    codes[i] = '1'
  end
  at = at + 2 + nf
end
return table.concat(codes)
"""
)


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the SHA-1 by which the server knows it."""

    text: bytes
    sha: bytes


def _script(text: str) -> Script:
    # The protocol's name for a script, not a safeguard.
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(text.encode(), sha.encode())


WRITE = _script(_WRITE)
"""KEYS: store keys. ARGV: field, mode, then row and expiry for each key. Returns one letter for
each key (written, same, older, tie), then the stored rows of the ties."""

REPLACE = _script(_REPLACE)
"""KEYS: one store key. ARGV: field, mode, expected row, new row (empty: none), expiry.
Returns 1 if replaced."""

SWAP = _script(_SWAP)
"""KEYS: store keys. ARGV: mode, how many fields, the fields, then for each key the expected
revision of its first field, the expiry, and a value for each field (empty: none). Returns one
letter for each key: 1 if swapped."""
