package roomstore

import "time"

// LookAgainAfter has audits of a store look again sooner, where nothing is under way.
func (s *Store) LookAgainAfter(d time.Duration) { s.secondLook = d }
