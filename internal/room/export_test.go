package room

// BoundResolution lets resolutions load so many events at most, and makes those large that load more than another number.
func (r *Rooms) BoundResolution(events, large int) {
	r.resolvable.events, r.resolvable.large = events, large
}

// HoldLargeResolutions takes all slots of large resolutions until it is let go.
func (r *Rooms) HoldLargeResolutions() (letGo func()) {
	for range cap(r.resolving) {
		r.resolving <- struct{}{}
	}
	return func() {
		for range cap(r.resolving) {
			<-r.resolving
		}
	}
}
