// Aligns two answers: Myers' O(ND) difference over numbers of pieces (Algorithmica 1, 1986), bounded
// so that two long answers without anything in common do not stall the page.

const MAX_EDITS = 1500;

// For every token of `a` the token of `b` that it is aligned with, or -1.  `isCut`: there were more
// differences than the bound, and all behind the common beginning and before the common end counts
// as one.
function align(a, b) {
  const match = new Int32Array(a.length).fill(-1);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) match[start] = start++;
  let endA = a.length;
  let endB = b.length;
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) match[--endA] = --endB;
  const isCut = !alignMiddle(a, b, start, endA, endB, match);
  return { match, isCut };
}

function alignMiddle(a, b, start, endA, endB, match) {
  const n = endA - start;
  const m = endB - start;
  const most = Math.min(n + m, MAX_EDITS);
  const reach = new Int32Array(2 * most + 3); // furthest x on every diagonal
  const zero = most + 1;
  const before = [];
  for (let d = 0; d <= most; d++) {
    before.push(reach.slice(zero - d - 1, zero + d + 2));
    for (let k = -d; k <= d; k += 2) {
      const goesDown = k === -d || (k !== d && reach[zero + k - 1] < reach[zero + k + 1]);
      let x = goesDown ? reach[zero + k + 1] : reach[zero + k - 1] + 1;
      let y = x - k;
      while (x < n && y < m && a[start + x] === b[start + y]) {
        x++;
        y++;
      }
      reach[zero + k] = x;
      if (x >= n && y >= m) {
        walkBack(before, d, n, m, start, match);
        return true;
      }
    }
  }
  return false;
}

function walkBack(before, d, n, m, start, match) {
  let x = n;
  let y = m;
  for (; d >= 0; d--) {
    const reach = before[d];
    const zero = d + 1;
    const k = x - y;
    const goesDown = k === -d || (k !== d && reach[zero + k - 1] < reach[zero + k + 1]);
    const fromK = goesDown ? k + 1 : k - 1;
    const fromX = d === 0 ? 0 : reach[zero + fromK];
    const fromY = d === 0 ? 0 : fromX - fromK;
    while (x > fromX && y > fromY) match[start + --x] = start + --y;
    x = fromX;
    y = fromY;
  }
}

const ROW_TOKENS = 40; // a row may break after so many, where both sides agree

// Rows of [first, last) on both sides that begin and end together: at line feeds both have, or at
// the end of a sentence in a long line.
function alignedRows(a, b, match, pieces) {
  const rows = [];
  let [i, j, fromI, fromJ] = [0, 0, 0, 0];
  const close = () => {
    if (i > fromI || j > fromJ) rows.push({ a: [fromI, i], b: [fromJ, j] });
    [fromI, fromJ] = [i, j];
  };
  while (i < a.length || j < b.length) {
    if (i < a.length && match[i] === j) {
      const piece = pieces[a[i]];
      i++;
      j++;
      const isLong = Math.max(i - fromI, j - fromJ) >= ROW_TOKENS;
      if (piece.includes("\n") || (isLong && /[.!?;:]\s*$/.test(piece))) close();
    } else if (i < a.length && match[i] < 0) i++;
    else j++;
  }
  close();
  return rows;
}
