package lua

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A definition is put before the code that needs it, or, if only seldom blocks
// do, into each of these; and what nothing needs is left out.
func TestPlace(t *testing.T) {
	t.Parallel()
	definitions := split(`local ALWAYS = 1
local function rare()
  return ALWAYS
end
local function rarer()
  return rare()
end
local function often(x)
  if x == "never" then -- seldom
    return rare()
  end
  return ALWAYS
end
local function never()
end
`)
	got := place(`if a then -- seldom
  if b then -- seldom
    rarer()
  end
  rare()
else
  often(c)
end
for i = 1, 2 do -- seldom
  rarer()
end
`, definitions)
	want := `local ALWAYS = 1
local function often(x)
  if x == "never" then -- seldom
local function rare()
  return ALWAYS
end
    return rare()
  end
  return ALWAYS
end
if a then -- seldom
local function rare()
  return ALWAYS
end
  if b then -- seldom
local function rarer()
  return rare()
end
    rarer()
  end
  rare()
else
  often(c)
end
for i = 1, 2 do -- seldom
local function rare()
  return ALWAYS
end
local function rarer()
  return rare()
end
  rarer()
end
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
