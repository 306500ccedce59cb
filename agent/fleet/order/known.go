package order

import (
	"slices"
	"sort"
)

// Known is a set of identities: for each node and instance ("a/0123456789abcdef") ranges of
// numbers, first and last, in ascending order, that do not touch each other.
type Known map[string][][2]uint64

func (id ID) of() string { return id.Node + "/" + id.Instance }

// Has reports whether an identity is in the set.
func (k Known) Has(id ID) bool {
	list := k[id.of()]
	i := sort.Search(len(list), func(i int) bool { return list[i][1] >= id.Number })
	return i < len(list) && list[i][0] <= id.Number
}

// Add puts an identity into the set.
func (k Known) Add(id ID) {
	list, n := k[id.of()], id.Number
	i := sort.Search(len(list), func(i int) bool { return list[i][1] >= n })
	if i < len(list) && list[i][0] <= n {
		return
	}
	before := i > 0 && list[i-1][1]+1 == n
	after := i < len(list) && n+1 == list[i][0]
	switch {
	case before && after:
		list[i-1][1] = list[i][1]
		list = slices.Delete(list, i, i+1)
	case before:
		list[i-1][1] = n
	case after:
		list[i][0] = n
	default:
		list = slices.Insert(list, i, [2]uint64{n, n})
	}
	k[id.of()] = list
}

// valid reports whether the ranges are as Add makes them: Has goes wrong with others.
func (k Known) valid() bool {
	for _, list := range k {
		last := uint64(0)
		for i, r := range list {
			if r[0] == 0 || r[1] < r[0] || i > 0 && r[0] <= last+1 {
				return false
			}
			last = r[1]
		}
	}
	return true
}
