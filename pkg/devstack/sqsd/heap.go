package sqsd

import "container/heap"

// indexed is a heap whose items know their place in it, so that any of them
// can be removed in O(log n).
type indexed[T any] struct {
	items []T
	less  func(a, b T) bool
	place func(T) *int // -1 while the item is not in this heap
}

func (h *indexed[T]) Len() int           { return len(h.items) }
func (h *indexed[T]) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *indexed[T]) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	*h.place(h.items[i]), *h.place(h.items[j]) = i, j
}

func (h *indexed[T]) Push(x any) {
	item, _ := x.(T) // only put pushes
	*h.place(item) = len(h.items)
	h.items = append(h.items, item)
}

func (h *indexed[T]) Pop() any {
	var none T
	last := len(h.items) - 1
	item := h.items[last]
	h.items[last] = none
	h.items = h.items[:last]
	*h.place(item) = -1
	return item
}

func (h *indexed[T]) first() (item T, ok bool) {
	if len(h.items) == 0 {
		return item, false
	}
	return h.items[0], true
}

// put adds the item, or finds its new place when it is there already.
func (h *indexed[T]) put(item T) {
	if i := *h.place(item); i >= 0 {
		heap.Fix(h, i)
		return
	}
	heap.Push(h, item)
}

// remove does nothing when the item is not there.
func (h *indexed[T]) remove(item T) {
	if i := *h.place(item); i >= 0 {
		heap.Remove(h, i)
	}
}
