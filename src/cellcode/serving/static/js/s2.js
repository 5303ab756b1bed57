/**
 * S2 cells from their tokens (http://s2geometry.io/devguide/s2cell_hierarchy). A token is the cell's 64-bit id in hexadecimal
 * without trailing zeros: three bits of the face of a cube, two bits for each level along a Hilbert curve, then a one.
 */

const SWAP = 1;
const INVERT = 2;
/** [state of the curve][position along it] gives the bits of i (the higher one) and j. */
const QUADRANT = [[0, 1, 3, 2], [0, 2, 3, 1], [3, 2, 0, 1], [3, 1, 0, 2]];
/** [position] gives what changes in the state. */
const TURN = [SWAP, 0, 0, INVERT | SWAP];

/**
 * @param {string} token
 * @returns {{face: number, level: number, i: number, j: number}} column and row on the face, in cells of the level
 * @throws {RangeError} the text is no token of a cell
 */
export function decode(token) {
  if (!/^[0-9a-f]{1,16}$/i.test(token)) throw new RangeError(`${token} is not the token of an S2 cell`);
  const hex = token.padEnd(16, "0");
  const high = parseInt(hex.slice(0, 8), 16) >>> 0;
  const low = parseInt(hex.slice(8), 16) >>> 0;
  const zeros = low ? 31 - Math.clz32(low & -low) : 63 - Math.clz32(high & -high);
  const face = high >>> 29;
  if (face > 5 || zeros % 2 || zeros > 60) throw new RangeError(`${token} is not the token of an S2 cell`);
  const level = 30 - zeros / 2;
  let state = face & SWAP;
  let i = 0;
  let j = 0;
  for (let depth = 0; depth < level; depth += 1) {
    const step = pair(high, low, 59 - 2 * depth);
    const ahead = QUADRANT[state][step];
    i = 2 * i + (ahead >> 1);
    j = 2 * j + (ahead & 1);
    state ^= TURN[step];
  }
  return { face, level, i, j };
}

/**
 * @param {string} token
 * @returns {[number, number][]} the four corners as [latitude, longitude] in degrees, counter-clockwise seen from above;
 *     longitudes are continuous, so beyond 180 where the cell crosses the antimeridian
 */
export function corners(token) {
  const { face, level, i, j } = decode(token);
  const edge = 2 ** -level;
  const made = [[0, 0], [1, 0], [1, 1], [0, 1]].map(([east, north]) => toDegrees(face, toUv((i + east) * edge), toUv((j + north) * edge)));
  for (const corner of made) {
    if (corner[1] - made[0][1] > 180) corner[1] -= 360;
    if (corner[1] - made[0][1] < -180) corner[1] += 360;
  }
  return made;
}

/** @param {string} token @returns {object} GeoJSON Polygon */
export function polygon(token) {
  const ring = corners(token).map(([lat, lon]) => [lon, lat]);
  return { type: "Polygon", coordinates: [[...ring, ring[0]]] };
}

/** Two bits of a 64-bit number; `shift` is odd and at most 59. */
function pair(high, low, shift) {
  if (shift > 31) return (high >>> (shift - 32)) & 3;
  if (shift === 31) return ((high & 1) << 1) | (low >>> 31);
  return (low >>> shift) & 3;
}

/** S2's quadratic transform from 0..1 to -1..1, which evens out the areas of cells. */
function toUv(s) {
  return s >= 0.5 ? (4 * s * s - 1) / 3 : (1 - 4 * (1 - s) * (1 - s)) / 3;
}

/** A point on a face of the cube as latitude and longitude in degrees. */
function toDegrees(face, u, v) {
  const [x, y, z] = [[1, u, v], [-u, 1, v], [-u, -v, 1], [-1, -v, -u], [v, -1, -u], [v, u, -1]][face];
  return [(Math.atan2(z, Math.hypot(x, y)) * 180) / Math.PI, (Math.atan2(y, x) * 180) / Math.PI];
}
